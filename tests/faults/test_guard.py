"""Row 18: `invalid_grant` to many at once is not about those many. On real PostgreSQL, against the simulator."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from qbo_refresh.status import Outcome
from tests.support.attempts import FORCED, Attempts
from worker import watching
from worker.attempt import Trigger
from worker.errors import GrantRejected
from worker.refresh import Refresher, Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.support.fleet import Connected, Fleet
    from worker.attempt import Claim
    from worker.runtime import Runtime

CONFIRMED = timedelta(minutes=16)
PER_APP = "SELECT guard_tripped_at, guard_released_at, population FROM qbo.apps"
VERDICT = ["connection.needs_reauth", "sync.paused"]


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


def outcomes(by: Refresher, connected: Iterable[Connected]) -> set[Outcome]:
    return {sweep(by, each).outcome for each in connected}


def forced(by: Refresher, connected: Connected) -> Outcome:
    return refresh(by, connected.id, trigger=Trigger.ADHOC, freshness=FORCED).outcome


def ask_again(fleet: Fleet, by: Refresher, connected: Iterable[Connected]) -> set[Outcome]:
    """Ask each once more after CONFIRM_AFTER, whatever its schedule says."""
    fleet.let_pass(CONFIRMED)
    return {forced(by, each) for each in connected}


def withheld(fleet: Fleet, connected: Connected) -> list[str | None]:
    return [row.withheld for row in fleet.attempts(connected.id)]


@pytest.mark.parametrize("size", [3, 12])
def test_row_18_ten_minutes_of_invalid_grant_to_all_end_in_no_verdict(
    fleet: Fleet, refresher: Refresher, size: int
) -> None:
    # Fails without `not_before` in the claim, and without CONFIRM_AFTER: seen.
    connected = fleet.connect(size)
    fault = fleet.simulator.fault("invalid_grant")
    assert outcomes(refresher, connected) == {Outcome.SUSPECT}
    assert all(fleet.holds(each.id) == {"suspect"} for each in connected)
    fleet.witness()  # others may work
    for _ in range(5):
        fleet.let_pass(timedelta(minutes=2))
        assert {forced(refresher, each) for each in connected} == {Outcome.SKIPPED}
    assert fleet.simulator.check().refreshes == size
    fleet.update(None, "not_before = NULL")  # and without the pause that binds everybody
    assert {forced(refresher, each) for each in connected} == {Outcome.SUSPECT}
    assert fleet.events() == (["guard.tripped"] if size > 3 else [])
    fleet.simulator.clear_fault(fault)
    fleet.let_pass(CONFIRMED)
    assert outcomes(refresher, connected) == {Outcome.REFRESHED}
    assert fleet.statuses(connected) == {"active": size}
    assert all(fleet.holds(each.id) == set() and fleet.events(each.id) == [] for each in connected)


def test_row_18_a_third_of_the_fleet_refused_for_hours_waits_behind_the_guard_and_heals(
    fleet: Fleet, refresher: Refresher
) -> None:
    # Fails without `Withheld.GUARD`: the third is told to reconnect.
    connected = fleet.connect(30)
    refused, healthy = connected[:10], connected[10:]
    faults = [fleet.simulator.fault("invalid_grant", realms=[each.realm_id]) for each in refused]
    assert outcomes(refresher, healthy) == {Outcome.REFRESHED}
    assert outcomes(refresher, refused) == {Outcome.SUSPECT}
    fleet.witness()
    for _ in range(8):
        assert ask_again(fleet, refresher, refused) == {Outcome.SUSPECT}
    assert {reason for each in refused for reason in withheld(fleet, each)} == {None, "guard"}
    assert fleet.events() == ["guard.tripped"], "once"
    for fault in faults:
        fleet.simulator.clear_fault(fault)
    assert ask_again(fleet, refresher, refused) == {Outcome.REFRESHED}
    assert fleet.statuses(connected) == {"active": 30}
    assert all(fleet.events(each.id) == [] for each in connected)


def test_the_guard_trips_with_one_more_than_the_threshold_and_tells_once(fleet: Fleet, refresher: Refresher) -> None:
    connected = fleet.connect(5)
    one = Attempts(refresher)
    for each in connected[:3]:
        one.conclude(one.claimed(each.id), GrantRejected())
    assert fleet.db.execute(PER_APP).one().guard_tripped_at is None
    one.conclude(one.claimed(connected[3].id), GrantRejected())
    assert fleet.db.execute(PER_APP).one().guard_tripped_at is not None
    one.conclude(one.claimed(connected[4].id), GrantRejected())
    assert fleet.events() == ["guard.tripped"]


def test_suspects_of_the_same_moment_are_counted_one_after_the_other(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    # Fails without FOR UPDATE on the app's row: seen, each counts only itself and nobody trips, or two do.
    workers = [Attempts(start_worker().refresher) for _ in range(4)]
    for lap in range(1, 6):
        connected = fleet.connect(4)
        claims = [by.claimed(each.id) for by, each in zip(workers, connected, strict=True)]
        together = Barrier(4, timeout=20)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(partial(_refused_together, together), workers, claims))
        assert fleet.events() == ["guard.tripped"] * lap
        fleet.db.execute("UPDATE qbo.apps SET guard_tripped_at = NULL")
        fleet.update(None, "suspect_since = NULL")


def _refused_together(together: Barrier, by: Attempts, claim: Claim) -> None:
    together.wait()
    assert by.conclude(claim, GrantRejected())


def test_without_a_witness_a_verdict_waits_twice_confirm_after_longer(fleet: Fleet, refresher: Refresher) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.revoke(connected.realm_id)
    assert sweep(refresher, connected).outcome is Outcome.SUSPECT
    assert ask_again(fleet, refresher, [connected]) == {Outcome.SUSPECT}
    assert ask_again(fleet, refresher, [connected]) == {Outcome.SUSPECT}
    assert withheld(fleet, connected) == [None, "witness", "witness"]
    assert ask_again(fleet, refresher, [connected]) == {Outcome.NEEDS_REAUTH}
    assert fleet.events(connected.id) == VERDICT


def test_a_success_before_the_first_refusal_is_no_witness(fleet: Fleet, refresher: Refresher) -> None:
    first, second = fleet.connect(2)
    fleet.simulator.revoke(first.realm_id)
    assert sweep(refresher, second).outcome is Outcome.REFRESHED
    fleet.let_pass(timedelta(minutes=1))
    assert sweep(refresher, first).outcome is Outcome.SUSPECT
    assert ask_again(fleet, refresher, [first]) == {Outcome.SUSPECT}
    assert withheld(fleet, first)[-1] == "witness"


def test_a_release_lets_through_those_that_are_refused_once_more(fleet: Fleet, refresher: Refresher) -> None:
    connected = fleet.connect(6)
    for each in connected:
        fleet.simulator.revoke(each.realm_id)
    assert outcomes(refresher, connected) == {Outcome.SUSPECT}
    fleet.witness()
    assert ask_again(fleet, refresher, connected) == {Outcome.SUSPECT}
    fleet.db.execute("UPDATE qbo.apps SET guard_released_at = now()")
    assert fleet.statuses(connected) == {"suspect": 6}, "a release alone gives no verdict"
    assert ask_again(fleet, refresher, connected) == {Outcome.NEEDS_REAUTH}


def test_refusals_that_persist_six_hours_beside_a_witness_go_through_by_themselves(
    fleet: Fleet, refresher: Refresher
) -> None:
    connected = fleet.connect(6)
    for each in connected:
        fleet.simulator.revoke(each.realm_id)
    assert outcomes(refresher, connected) == {Outcome.SUSPECT}
    fleet.witness()
    fleet.let_pass(timedelta(hours=5, minutes=30))
    assert ask_again(fleet, refresher, connected) == {Outcome.SUSPECT}
    assert ask_again(fleet, refresher, connected) == {Outcome.NEEDS_REAUTH}


def test_without_a_witness_no_time_opens_a_guard_that_has_tripped(fleet: Fleet, refresher: Refresher) -> None:
    connected = fleet.connect(6)
    fleet.simulator.fault("invalid_grant")
    assert outcomes(refresher, connected) == {Outcome.SUSPECT}
    fleet.let_pass(timedelta(days=2))
    assert ask_again(fleet, refresher, connected) == {Outcome.SUSPECT}
    assert {withheld(fleet, each)[-1] for each in connected} == {"guard"}


def test_a_guard_is_over_when_its_hour_has_passed_and_few_are_left(fleet: Fleet, refresher: Refresher) -> None:
    connected = fleet.connect(5)
    dead = connected[0]
    fleet.simulator.revoke(dead.realm_id)
    fault = fleet.simulator.fault("invalid_grant")
    assert outcomes(refresher, connected) == {Outcome.SUSPECT}
    fleet.simulator.clear_fault(fault)
    fleet.let_pass(CONFIRMED)
    assert outcomes(refresher, connected[1:]) == {Outcome.REFRESHED}
    assert ask_again(fleet, refresher, [dead]) == {Outcome.SUSPECT}
    fleet.let_pass(timedelta(minutes=45))
    assert ask_again(fleet, refresher, [dead]) == {Outcome.NEEDS_REAUTH}
    assert fleet.db.execute(PER_APP).one().guard_tripped_at is None


def test_a_guard_whose_suspects_have_all_healed_is_over_and_the_next_time_is_told_anew(
    fleet: Fleet, refresher: Refresher
) -> None:
    # Seen when only a refusal that proposes a verdict looked at it: shut for days, and the second time untold.
    connected = fleet.connect(10)
    for _ in range(2):
        fault = fleet.simulator.fault("invalid_grant")
        assert outcomes(refresher, connected) == {Outcome.SUSPECT}
        fleet.simulator.clear_fault(fault)
        fleet.let_pass(CONFIRMED)
        assert outcomes(refresher, connected) == {Outcome.REFRESHED}
        fleet.let_pass(timedelta(days=2))
    assert fleet.events() == ["guard.tripped", "guard.tripped"]


def test_a_guard_is_over_without_another_refusal_once_somebody_looks(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    worker = start_worker()
    connected = fleet.connect(10)
    fault = fleet.simulator.fault("invalid_grant")
    assert outcomes(worker.refresher, connected) == {Outcome.SUSPECT}
    fleet.simulator.clear_fault(fault)
    fleet.let_pass(CONFIRMED)
    assert outcomes(worker.refresher, connected) == {Outcome.REFRESHED}
    watching.look(worker.db, worker.keys, sweep_every=timedelta(minutes=1))
    assert fleet.db.execute(PER_APP).one().guard_tripped_at is not None, "its hour is not over"
    fleet.let_pass(timedelta(minutes=45))
    watching.look(worker.db, worker.keys, sweep_every=timedelta(minutes=1))
    assert fleet.db.execute(PER_APP).one().guard_tripped_at is None


def test_only_a_grant_whose_five_years_are_over_is_exempt_from_the_guard(fleet: Fleet, refresher: Refresher) -> None:
    connected = fleet.connect(6)
    for each in connected:
        fleet.simulator.revoke(each.realm_id)
    hard, rolling = connected[0], connected[1]
    assert outcomes(refresher, connected) == {Outcome.SUSPECT}
    fleet.witness()
    fleet.update(hard.id, "hard_expires_at = now() - interval '1 day'")
    fleet.update(rolling.id, "refresh_expires_at = now() - interval '1 day'")
    ask_again(fleet, refresher, connected)
    assert fleet.row(hard.id).status == "needs_reauth"
    assert fleet.statuses(connected[1:]) == {"suspect": 5}


def test_grants_whose_five_years_are_over_do_not_trip_the_guard(fleet: Fleet, refresher: Refresher) -> None:
    connected = fleet.connect(8)
    for each in connected:
        fleet.simulator.revoke(each.realm_id)
        fleet.update(each.id, "hard_expires_at = now() - interval '1 hour'")
    assert outcomes(refresher, connected) == {Outcome.SUSPECT}
    assert fleet.events() == []


def test_a_second_chance_after_three_hours_heals_and_says_so(fleet: Fleet, refresher: Refresher) -> None:
    (connected,) = fleet.connect()
    fault = fleet.simulator.fault("invalid_grant", realms=[connected.realm_id])
    assert sweep(refresher, connected).outcome is Outcome.SUSPECT
    fleet.witness()
    assert ask_again(fleet, refresher, [connected]) == {Outcome.NEEDS_REAUTH}
    fleet.let_pass(timedelta(hours=2, minutes=59))
    assert sweep(refresher, connected).outcome is Outcome.SKIPPED
    fleet.simulator.clear_fault(fault)
    fleet.let_pass(timedelta(minutes=2))
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    assert (fleet.row(connected.id).status, fleet.holds(connected.id)) == ("active", set())
    assert fleet.events(connected.id) == [*VERDICT, "connection.recovered", "sync.resumed"]


def test_a_mended_app_asks_those_again_that_were_given_up(fleet: Fleet, refresher: Refresher) -> None:
    first, dead = fleet.connect(2)
    fleet.simulator.revoke(dead.realm_id)
    assert sweep(refresher, dead).outcome is Outcome.SUSPECT
    fleet.witness()
    assert ask_again(fleet, refresher, [dead]) == {Outcome.NEEDS_REAUTH}
    fleet.let_pass(timedelta(days=3))
    fleet.update(dead.id, "next_refresh_at = NULL")
    one = Attempts(refresher)
    secret = refresher.secrets[first.app_id][0].secret_hash
    refresher.store.block(one.claimed(first.id), secret_hash=secret, reason="invalid_client", at_once=True)
    fleet.let_pass(timedelta(minutes=2))
    assert sweep(refresher, first).outcome is Outcome.REFRESHED
    assert fleet.row(dead.id).due_in <= timedelta(0)
