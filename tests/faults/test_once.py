from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

from qbo_refresh.status import Outcome
from tests.support.attempts import FORCED
from tests.support.waiting import wait_until
from worker.attempt import Freshness, Trigger
from worker.refresh import Refresher, Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fleet import Fleet
    from worker.runtime import Runtime


def sweep(by: Refresher, connection_id: int) -> Result:
    return refresh(by, connection_id, trigger=Trigger.SWEEP)


def test_row_1_one_task_delivered_50_times_to_4_workers_is_one_call(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    # Fails without the lease in the claim's WHERE: seen, four calls, one invalid_grant and a suspect.
    (connected,) = fleet.connect()
    fleet.simulator.fault("latency", delay=0.2)
    workers = [start_worker().refresher for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: sweep(workers[n % 4], connected.id), range(50)))
    assert [result.outcome for result in results].count(Outcome.REFRESHED) == 1
    assert fleet.simulator.check().refreshes == 1
    assert fleet.holds_the_live_token(connected)


def test_row_1_a_hundred_clicks_are_one_call(fleet: Fleet, refresher: Refresher) -> None:
    (connected,) = fleet.connect()
    freshness = Freshness(max_age=timedelta(seconds=60))

    def click(_: int) -> Result:
        return refresh(refresher, connected.id, trigger=Trigger.ADHOC, freshness=freshness)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(click, range(100)))
    assert fleet.simulator.check().refreshes == 1
    assert {r.reason for r in results if r.outcome is Outcome.SKIPPED} <= {"fresh", "in_progress"}


def test_row_17_nobody_asks_again_while_an_attempt_is_under_way(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher
) -> None:
    (connected,) = fleet.connect()
    frozen = fleet.simulator.fault("freeze")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sweep, refresher, connected.id)
        wait_until(fleet.simulator.in_flight)
        second = refresh(second_refresher, connected.id, trigger=Trigger.ADHOC, freshness=FORCED)
        fleet.simulator.clear_fault(frozen)
        assert first.result().outcome is Outcome.REFRESHED
    assert (second.outcome, second.reason) == (Outcome.SKIPPED, "in_progress")


def test_row_17_a_forced_caller_does_not_ask_again_within_the_second(fleet: Fleet, refresher: Refresher) -> None:
    # Fails without not_before in the claim's WHERE: seen, two calls.
    (connected,) = fleet.connect()
    fleet.simulator.fault("invalid_grant", count=1)
    assert sweep(refresher, connected.id).outcome is Outcome.SUSPECT
    for _ in range(3):
        again = refresh(refresher, connected.id, trigger=Trigger.ADHOC, freshness=FORCED)
        assert (again.outcome, again.reason) == (Outcome.SKIPPED, "invalid_grant")
    assert fleet.simulator.check().refreshes == 1
    fleet.let_pass(timedelta(minutes=16))
    assert sweep(refresher, connected.id).outcome is Outcome.REFRESHED
    assert (fleet.holds(connected.id), fleet.events(connected.id)) == (set(), [])
