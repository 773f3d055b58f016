from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from qbo_refresh.status import Outcome
from tests.support.sweeping import Minutes
from worker.attempt import Trigger
from worker.refresh import Refresher, Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

CONFIRMED = timedelta(minutes=16)


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


def test_row_19_a_revoked_grant_is_held_at_the_first_refusal_and_told_once_at_the_second(
    fleet: Fleet, refresher: Refresher
) -> None:
    (connected,) = fleet.connect()
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    fleet.simulator.revoke(connected.realm_id)
    fleet.let_pass(timedelta(hours=27))
    assert sweep(refresher, connected).outcome is Outcome.SUSPECT
    assert (fleet.holds(connected.id), fleet.events(connected.id)) == ({"suspect"}, [])
    fleet.witness()
    fleet.let_pass(CONFIRMED)
    assert sweep(refresher, connected).outcome is Outcome.NEEDS_REAUTH
    assert fleet.holds(connected.id) == {"reauth"}
    assert fleet.events(connected.id) == ["connection.needs_reauth", "sync.paused"]
    calls = fleet.state(connected).calls
    for hours, outcome in ((2.9, Outcome.SKIPPED), (0.2, Outcome.NEEDS_REAUTH), (20.8, Outcome.SKIPPED)):
        fleet.let_pass(timedelta(hours=hours))
        assert sweep(refresher, connected).outcome is outcome
    for hours, outcome in ((0.2, Outcome.NEEDS_REAUTH), (24 * 99, Outcome.SKIPPED)):
        fleet.let_pass(timedelta(hours=hours))
        assert sweep(refresher, connected).outcome is outcome
    assert fleet.row(connected.id).next_refresh_at is None
    assert fleet.state(connected).calls == calls + 4, "two later probes, of the row's token and the one before it"
    assert fleet.events(connected.id) == ["connection.needs_reauth", "sync.paused"]


def test_row_19_a_refusal_that_was_intuits_mistake_heals_without_a_word(fleet: Fleet, refresher: Refresher) -> None:
    connected = fleet.connect(10)
    fault = fleet.simulator.fault("invalid_grant")
    assert {sweep(refresher, each).outcome for each in connected} == {Outcome.SUSPECT}
    fleet.simulator.clear_fault(fault)
    fleet.let_pass(CONFIRMED)
    assert {sweep(refresher, each).outcome for each in connected} == {Outcome.REFRESHED}
    assert all(fleet.holds(each.id) == set() and fleet.events(each.id) == [] for each in connected)


def test_row_20_a_wrong_secret_on_all_workers_changes_no_connection_is_told_once_and_a_deploy_mends_it(
    fleet: Fleet, refresher: Refresher, start_worker: Callable[..., Runtime]
) -> None:
    connected = fleet.connect(5)
    wrong = [start_worker(INTUIT_CLIENT_SECRET="a typing mistake").refresher for _ in range(2)]
    assert sweep(wrong[0], connected[0]).outcome is Outcome.BLOCKED
    for _ in range(10):
        for number, each in enumerate(connected):
            sweep(wrong[number % 2], each)
        fleet.let_pass(timedelta(seconds=61))
    assert fleet.statuses(connected) == {"active": 5}
    assert fleet.events() == ["app.blocked"]
    assert fleet.simulator.check().refreshes <= 11, "one a minute"
    assert all(fleet.token(each.id) == each.refresh_token for each in connected)
    assert {sweep(refresher, each).outcome for each in connected} == {Outcome.REFRESHED}


def test_row_20_the_worker_with_the_right_secret_goes_on_beside_the_one_with_a_wrong_one(
    fleet: Fleet, refresher: Refresher, start_worker: Callable[..., Runtime]
) -> None:
    wrong = start_worker(INTUIT_CLIENT_SECRET="of the old deployment").refresher
    first, second = fleet.connect(2)
    assert sweep(wrong, first).outcome is Outcome.BLOCKED
    assert sweep(refresher, second).outcome is Outcome.REFRESHED
    fleet.let_pass(timedelta(minutes=2))
    assert sweep(refresher, first).outcome is Outcome.REFRESHED


def test_row_20_a_secret_mended_at_intuit_is_back_within_two_minutes(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    # Fails with a probe that waits for as long as a sweep does: seen, every second sweep finds none due.
    connected = fleet.connect(12)
    minutes = Minutes(fleet, start_worker())
    good = fleet.simulator.client_secret
    fleet.simulator.set_secrets("another")
    assert {result.outcome for result in minutes.one()} == {Outcome.BLOCKED, Outcome.SKIPPED}
    for _ in range(4):
        assert [result.outcome for result in minutes.one()] == [Outcome.BLOCKED], "one a minute"
    fleet.simulator.set_secrets(good)
    first, second = minutes.one(), minutes.one()
    assert (len(first), len(second)) == (1, 11)
    assert {result.outcome for result in first + second} == {Outcome.REFRESHED}
    assert fleet.statuses(connected) == {"active": 12}
    assert fleet.events() == ["app.blocked", "app.unblocked"]


def test_row_20_the_previous_secret_is_tried_when_the_new_one_is_refused(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    connected = fleet.connect(3)
    both = start_worker(
        INTUIT_CLIENT_SECRET="not yet valid", INTUIT_CLIENT_SECRET_PREVIOUS=fleet.simulator.client_secret
    ).refresher
    assert {sweep(both, each).outcome for each in connected} == {Outcome.REFRESHED}
    assert [call.status for call in fleet.simulator.journal()] == [401, 200, 200, 200]
    assert [fleet.attempts(each.id)[0].secret for each in connected] == ["previous"] * 3


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "answer", "status": 400, "error": "invalid_request"},
        {"kind": "answer", "status": 400, "error": "invalid_scope"},
        {"kind": "answer", "status": 400, "error": "invalid_grant", "description": "Incorrect Token type or clientID"},
        {"kind": "answer", "status": 401, "error": "invalid_grant"},
    ],
)
def test_row_20_an_odd_row_alone_is_deferred_and_the_others_go_on(
    fleet: Fleet, refresher: Refresher, fault: dict[str, object]
) -> None:
    odd, *well = fleet.connect(4)
    fleet.simulator.fault(**fault, realm_ids=odd.realm_id)  # type: ignore[arg-type]  # its options
    for _ in range(5):
        assert sweep(refresher, odd).outcome is Outcome.DEFERRED
        fleet.let_pass(timedelta(minutes=61))
    assert {sweep(refresher, each).outcome for each in well} == {Outcome.REFRESHED}
    assert fleet.statuses([odd, *well]) == {"active": 4}
    assert fleet.events() == []
