"""A grant's three clocks in the row, from answers of the simulator, whose time goes with the tables'."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from qbo_refresh.status import Outcome
from tests.support.attempts import FORCED
from worker.attempt import Trigger
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.commands import Run
    from tests.support.fleet import Connected, Fleet
    from worker.refresh import Refresher

DAY = timedelta(days=1)
FIVE_YEARS = timedelta(seconds=157_680_000)
ROLLING, HARD = "x_refresh_token_expires_in", "x_refresh_token_hard_expires_in"


def connect(fleet: Fleet, *, left: timedelta) -> Connected:
    """Make a connection whose grant ends so far from now, whatever is done."""
    (connected,) = fleet.connect(granted_ago=(FIVE_YEARS - left).total_seconds())
    return connected


def refreshed(fleet: Fleet, refresher: Refresher, connected: Connected, *, after: timedelta = timedelta(0)) -> Any:
    """Refresh after some time, and return the row."""
    fleet.let_pass(after, at_intuit=True)
    result = refresh(refresher, connected.id, trigger=Trigger.ADHOC, freshness=FORCED)
    assert result.outcome is Outcome.REFRESHED
    return fleet.row(connected.id)


def notices(fleet: Fleet, connected: Connected) -> list[int]:
    rows: Iterable[Any] = fleet.db.execute(
        "SELECT payload FROM qbo.outbox WHERE connection_id = %(id)s AND type = 'connection.expiring' ORDER BY id",
        {"id": connected.id},
    )
    return [row.payload["days"] for row in rows]


def test_both_ends_are_what_the_answer_says(fleet: Fleet, refresher: Refresher) -> None:
    connected = connect(fleet, left=400 * DAY)
    row = refreshed(fleet, refresher, connected)
    state = fleet.state(connected)
    for told, left in ((row.refresh_expires_at, state.expires_in), (row.hard_expires_at, state.hard_expires_in)):
        assert abs((told - row.token_obtained_at).total_seconds() - left) < 3


@pytest.mark.parametrize(
    "missing",
    [{"remove": [ROLLING, HARD]}, {"fields": {ROLLING: 0, HARD: 0}}, {"fields": {ROLLING: None, HARD: "soon"}}],
    ids=["absent", "zero", "no numbers"],
)
def test_an_answer_that_does_not_say_leaves_what_an_earlier_one_said(
    fleet: Fleet, refresher: Refresher, missing: dict[str, Any]
) -> None:
    connected = connect(fleet, left=400 * DAY)
    before = refreshed(fleet, refresher, connected)
    fleet.simulator.fault("override", **missing)
    row = refreshed(fleet, refresher, connected, after=DAY)
    assert row.token_version == before.token_version + 1
    assert (row.hard_expires_at, row.refresh_expires_at) == (
        before.hard_expires_at - DAY,
        before.refresh_expires_at - DAY,
    ), "the moments in the tables move with the time"


def test_a_refresh_moves_the_window_and_not_the_end(fleet: Fleet, refresher: Refresher) -> None:
    # Fails without the CASE over hard_expires_at in `_SET_TOKENS`: the end wanders by what each answer takes.
    connected = connect(fleet, left=400 * DAY)
    first = refreshed(fleet, refresher, connected)
    for days in range(1, 4):
        row = refreshed(fleet, refresher, connected, after=DAY)
        assert row.hard_expires_at == first.hard_expires_at - days * DAY, "exactly: it was not written"
        assert abs(row.refresh_expires_at - first.refresh_expires_at) < timedelta(minutes=1), "as far away as ever"


def test_another_end_that_intuit_tells_is_taken(fleet: Fleet, refresher: Refresher) -> None:
    connected = connect(fleet, left=400 * DAY)
    refreshed(fleet, refresher, connected)
    fleet.simulator.fault("override", fields={HARD: 50 * 86400})
    row = refreshed(fleet, refresher, connected)
    assert abs(row.hard_expires_at - row.token_obtained_at - 50 * DAY) < timedelta(seconds=1)


def test_the_end_is_announced_once_at_ninety_thirty_seven_and_one_day(fleet: Fleet, refresher: Refresher) -> None:
    connected = connect(fleet, left=95 * DAY)
    told = {95.0: [], 89.0: [90], 60.0: [90], 29.5: [90, 30], 10.0: [90, 30], 6.0: [90, 30, 7], 0.5: [90, 30, 7, 1]}
    left = 95.0
    for days, expected in told.items():
        for hours in (0, 1):  # a second refresh an hour later announces nothing more
            refreshed(fleet, refresher, connected, after=(left - days) * DAY + timedelta(hours=hours))
            left = days - hours / 24
            assert notices(fleet, connected) == expected
    assert fleet.row(connected.id).expiry_told_days == 1


def test_an_announcement_names_the_end(fleet: Fleet, refresher: Refresher) -> None:
    connected = connect(fleet, left=20 * DAY)
    row = refreshed(fleet, refresher, connected)
    payload = fleet.db.execute(
        "SELECT payload FROM qbo.outbox WHERE connection_id = %(id)s", {"id": connected.id}
    ).one()
    assert payload.payload == {
        "days": 30,
        "hard_expires_at": row.hard_expires_at.replace(microsecond=0).isoformat(),
        "hard_expires_inferred": False,
    }


def test_without_the_field_the_ceiling_is_recognised_and_announced(fleet: Fleet, refresher: Refresher) -> None:
    # Fails without the comparison in `expiry.hard_lifetime`: nobody is told.
    fleet.simulator.fault("override", remove=[HARD])
    connected = connect(fleet, left=80 * DAY)
    assert refreshed(fleet, refresher, connected).hard_expires_at is None
    row = refreshed(fleet, refresher, connected, after=DAY)
    assert abs(row.hard_expires_at - row.refresh_expires_at) < timedelta(seconds=1)
    assert notices(fleet, connected) == [90]


def inferred(fleet: Fleet, refresher: Refresher) -> Connected:
    """Make a connection whose end was concluded, since Intuit does not say it."""
    fleet.simulator.fault("override", remove=[HARD])
    connected = connect(fleet, left=80 * DAY)
    for days in (0, 1):
        refreshed(fleet, refresher, connected, after=days * DAY)
    assert fleet.row(connected.id).hard_expires_inferred
    return connected


def test_an_end_that_was_concluded_is_called_so_until_intuit_says_it(fleet: Fleet, refresher: Refresher) -> None:
    # Fails without `hard_expires_inferred` in `_SET_TOKENS`; with the parameter alone, without COALESCE, the third is.
    connected = inferred(fleet, refresher)
    (told,) = fleet.db.execute("SELECT payload FROM qbo.outbox WHERE type = 'connection.expiring'").all()
    assert told.payload["hard_expires_inferred"] is True
    assert refreshed(fleet, refresher, connected, after=DAY).hard_expires_inferred, "an answer that does not say"
    fleet.simulator.clear_faults()
    before = fleet.row(connected.id)
    row = refreshed(fleet, refresher, connected)
    assert (row.hard_expires_inferred, row.hard_expires_at) == (False, before.hard_expires_at), "the same end, but said"


def test_what_was_concluded_of_a_grant_goes_with_it(fleet: Fleet, refresher: Refresher, run: Run) -> None:
    connected = inferred(fleet, refresher)
    found = json.loads(run("status", "--json")[1])
    assert (found["hard_expiring_soon"], found["hard_expiring_soon_inferred"]) == (0, 0), "in 79 days"
    refreshed(fleet, refresher, connected, after=70 * DAY)
    found = json.loads(run("status", "--json")[1])
    assert (found["hard_expiring_soon"], found["hard_expiring_soon_inferred"]) == (1, 1)
    assert "hard limit 1 (1 inferred, not said by Intuit)" in run("status")[1]
    assert json.loads(run("list", "--json")[1])["hard_expires_inferred"] is True
    assert json.loads(run("explain", str(connected.id), "--json")[1])["connection"]["hard_expires_inferred"] is True
    assert run("disconnect", str(connected.id))[0] == 0
    assert fleet.row(connected.id).hard_expires_inferred is False


def test_without_the_field_a_window_that_rolls_is_no_ceiling(fleet: Fleet, refresher: Refresher) -> None:
    fleet.simulator.fault("override", remove=[HARD])
    connected = connect(fleet, left=400 * DAY)
    for _ in range(3):
        row = refreshed(fleet, refresher, connected, after=DAY)
    assert (row.hard_expires_at, notices(fleet, connected)) == (None, [])
