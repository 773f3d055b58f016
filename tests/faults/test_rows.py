from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from qbo_refresh import sealing
from qbo_refresh.sealing import Field
from qbo_refresh.secret import Secret
from qbo_refresh.status import Outcome
from worker.attempt import Trigger
from worker.refresh import Refresher, Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


def put_token(fleet: Fleet, connection_id: int, blob: bytes) -> None:
    fleet.update(connection_id, "refresh_token = %(blob)s", blob=blob)


def assert_unreadable_alone(fleet: Fleet, by: Refresher, odd: Connected, well: Connected) -> None:
    for _ in range(3):
        assert sweep(by, odd).outcome is Outcome.UNREADABLE
        row = fleet.row(odd.id)
        assert (row.status, row.lease_id) == ("active", None)
        assert timedelta(minutes=59) < row.wait <= timedelta(hours=1)
        fleet.let_pass(timedelta(minutes=61))
    assert fleet.events(odd.id) == ["row.unreadable"], "told once"
    assert sweep(by, well).outcome is Outcome.REFRESHED
    assert fleet.state(odd).calls == 0


def test_row_27_a_blob_of_another_row_does_not_open_and_the_others_go_on(fleet: Fleet, refresher: Refresher) -> None:
    odd, well = fleet.connect(2)
    put_token(fleet, odd.id, fleet.seal(well.id, well.refresh_token))
    assert_unreadable_alone(fleet, refresher, odd, well)


def test_row_27_a_blob_of_another_column_does_not_open(fleet: Fleet, refresher: Refresher) -> None:
    odd, well = fleet.connect(2)
    place = fleet.place(odd.id, Field.ACCESS_TOKEN)
    put_token(fleet, odd.id, fleet.keyring.seal(Secret(odd.refresh_token), place))
    assert_unreadable_alone(fleet, refresher, odd, well)


@pytest.mark.parametrize(
    "blob", [b"", b"\x00", b"\x01\x04test" + bytes(60), b"x" * 10_000], ids=["empty", "short", "forged", "long"]
)
def test_row_27_a_poison_row_is_unreadable_alone(fleet: Fleet, refresher: Refresher, blob: bytes) -> None:
    odd, well = fleet.connect(2)
    put_token(fleet, odd.id, blob)
    assert_unreadable_alone(fleet, refresher, odd, well)


def test_row_27_a_row_without_a_token_is_unreadable_alone(fleet: Fleet, refresher: Refresher) -> None:
    odd, well = fleet.connect(2)
    fleet.update(odd.id, "refresh_token = NULL")
    assert_unreadable_alone(fleet, refresher, odd, well)


def test_row_27_a_missing_key_is_nobodys_reconnect_and_heals_when_it_is_back(
    fleet: Fleet, refresher: Refresher, start_worker: Callable[..., Runtime]
) -> None:
    connected = fleet.connect(5)
    keyless = start_worker(TOKEN_KEYS=f"another:{sealing.new_key()}").refresher
    assert {sweep(keyless, each).outcome for each in connected} == {Outcome.UNREADABLE}
    assert fleet.statuses(connected) == {"active": 5}
    assert fleet.simulator.check().calls == 0
    fleet.let_pass(timedelta(minutes=61))
    assert {sweep(refresher, each).outcome for each in connected} == {Outcome.REFRESHED}


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
