from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from qbo_refresh import sealing
from qbo_refresh.sealing import Field
from qbo_refresh.secret import Secret
from qbo_refresh.status import Outcome
from tests.support.sweeping import Minutes
from worker.attempt import Trigger
from worker.refresh import Refresher, Result, refresh
from worker.watching import look

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


POISON = (b"", b"\x00", b"\x01\x04test" + bytes(60), b"x" * 10_000)


def test_row_27_moved_blobs_and_poison_rows_in_a_batch_of_200_are_unreadable_alone_and_the_others_go_on(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    connected = fleet.connect(200)
    odd, well = connected[: len(POISON) + 3], connected[len(POISON) + 3 :]
    access = fleet.place(odd[0].id, Field.ACCESS_TOKEN)
    blobs = [
        fleet.keyring.seal(Secret(odd[0].refresh_token), access),  # of another column
        fleet.seal(well[0].id, well[0].refresh_token),  # of another row
        None,
        *POISON,
    ]
    for each, blob in zip(odd, blobs, strict=True):
        fleet.update(each.id, "refresh_token = %(blob)s, next_refresh_at = now() - interval '1 hour'", blob=blob)
    minutes = Minutes(fleet, start_worker(), per_minute=200)
    results = minutes.one()
    assert [result.outcome for result in results] == [Outcome.UNREADABLE] * 7 + [Outcome.REFRESHED] * 193, (
        "odd ones first"
    )
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections WHERE token_version = 2").one().n == 193
    for _ in range(2):
        assert minutes.one() == [], "an hour later"
        fleet.let_pass(timedelta(minutes=59))
        assert [result.outcome for result in minutes.one()] == [Outcome.UNREADABLE] * 7
    for each in odd:
        assert (fleet.row(each.id).status, fleet.row(each.id).lease_id) == ("active", None)
        assert (fleet.row(each.id).last_outcome, fleet.events(each.id)) == ("unreadable", [])
        assert fleet.state(each).calls == 0
    assert told(fleet) == [("does_not_open", "test"), ("does_not_open", None)], "each key once, and what names none"


def told(fleet: Fleet) -> list[tuple[str, str | None]]:
    """Return reason and key of what operators were told."""
    rows = fleet.db.execute("SELECT payload FROM qbo.outbox WHERE type = 'row.unreadable' ORDER BY id")
    return [(row.payload["reason"], row.payload.get("key_id")) for row in rows]


def test_row_27_an_older_token_of_the_same_row_put_back_is_unreadable(fleet: Fleet, refresher: Refresher) -> None:
    # Fails without the comparison of fingerprints: seen, the spent token is presented and the row's own overwritten.
    (connected,) = fleet.connect()
    older = fleet.row(connected.id).refresh_token
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    fleet.let_pass(timedelta(days=2))
    fleet.update(connected.id, "refresh_token = %(older)s", older=older)
    assert sweep(refresher, connected).outcome is Outcome.UNREADABLE
    assert fleet.state(connected).calls == 1
    assert told(fleet) == [("does_not_open", "test")]


def test_row_27_a_missing_key_is_nobodys_reconnect_and_heals_when_it_is_back(
    fleet: Fleet, refresher: Refresher, start_worker: Callable[..., Runtime]
) -> None:
    # The events: fails without NOT EXISTS in `worker.store.unreadable` and `is_new` (seen: five), or `close_quiet`.
    connected = fleet.connect(5)
    worker = start_worker(TOKEN_KEYS=f"another:{sealing.new_key()}")
    keyless = worker.refresher
    assert {sweep(keyless, each).outcome for each in connected} == {Outcome.UNREADABLE}
    assert fleet.statuses(connected) == {"active": 5}
    assert fleet.simulator.check().calls == 0
    fleet.let_pass(timedelta(minutes=61))
    assert sweep(keyless, connected[0]).outcome is Outcome.UNREADABLE
    assert told(fleet) == [("key_missing", "test")], "once, for all of them"
    fleet.let_pass(timedelta(minutes=61))
    look(worker.db, worker.keys, sweep_every=timedelta(minutes=1))
    assert {sweep(refresher, each).outcome for each in connected} == {Outcome.REFRESHED}
    fleet.let_pass(timedelta(minutes=60))
    look(worker.db, worker.keys, sweep_every=timedelta(minutes=1))
    assert fleet.db.execute("SELECT FROM qbo.unreadable_keys").all() == [], "two hours without one: over"
    fleet.let_pass(timedelta(days=1))
    assert sweep(keyless, connected[0]).outcome is Outcome.UNREADABLE
    assert told(fleet) == [("key_missing", "test")] * 2, "lost again, told again"


@pytest.mark.parametrize(
    "column", ["next_refresh_at", "not_before", "suspect_since", "needs_reauth_since", "last_refreshed_at"]
)
def test_row_32_a_moment_that_no_program_can_read_keeps_no_row_from_being_refreshed(
    fleet: Fleet, refresher: Refresher, column: str
) -> None:
    # Seen: psycopg's error at '-infinity' ended the attempt, each time.
    (connected,) = fleet.connect()
    fleet.update(connected.id, f"{column} = '-infinity'")
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


@pytest.mark.parametrize("column", ["refresh_expires_at", "hard_expires_at", "access_expires_at"])
@pytest.mark.parametrize("moment", ["now() - interval '400 days'", "now() + interval '4000 years'", "'-infinity'"])
def test_row_32_what_the_tables_say_of_a_grants_end_is_no_verdict(
    fleet: Fleet, refresher: Refresher, column: str, moment: str
) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, f"{column} = {moment}")
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


def test_row_32_an_attempt_works_in_a_database_whose_sessions_live_in_another_zone(
    fleet: Fleet, refresher: Refresher
) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute("ALTER ROLE CURRENT_USER SET timezone = 'Pacific/Kiritimati'")
    try:
        assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    finally:
        fleet.db.execute("ALTER ROLE CURRENT_USER RESET timezone")
    row = fleet.row(connected.id)
    assert timedelta(hours=19, minutes=59) < row.due_in <= timedelta(hours=26)
