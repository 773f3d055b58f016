from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from tests.support.attempts import FORCED, Attempts
from tests.support.fleet import Fleet
from worker.database import Database
from worker.errors import GrantRejected, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from intuit_simulator import StartedSimulator
    from worker.runtime import Runtime
    from worker.settings import Settings

CONFIRMED = timedelta(minutes=16)


def test_a_first_refusal_holds_the_syncs_and_tells_nobody(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    row = fleet.row(connected.id)
    assert (row.status, row.lease_id, row.last_reason) == ("suspect", None, "invalid_grant")
    assert timedelta(minutes=14) < row.wait <= timedelta(minutes=15)
    assert fleet.holds(connected.id) == {"suspect"}
    assert fleet.events(connected.id) == []
    assert one.claim(connected.id, freshness=FORCED) is None, "not_before binds everybody"


def test_a_confirmed_refusal_is_status_hold_and_events_at_once(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    fleet.witness()
    fleet.let_pass(CONFIRMED)
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    row = fleet.row(connected.id)
    assert (row.status, row.event_sequence) == ("needs_reauth", 2)
    assert timedelta(hours=2, minutes=59) < row.due_in <= timedelta(hours=3), "its second chance"
    assert fleet.holds(connected.id) == {"reauth"}
    assert fleet.events(connected.id) == ["connection.needs_reauth", "sync.paused"]
    assert fleet.outcomes(connected.id) == [("suspect", "invalid_grant"), ("needs_reauth", "invalid_grant")]


def test_a_later_refusal_does_not_move_the_first_one(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    first = fleet.row(connected.id).suspect_since
    fleet.update(connected.id, "not_before = NULL")
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    assert fleet.row(connected.id).suspect_since == first


def test_a_suspect_stays_one_through_an_outage(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    fleet.let_pass(CONFIRMED)
    assert one.conclude(one.claimed(connected.id), Unavailable("unreachable"))
    assert (fleet.row(connected.id).status, fleet.events(connected.id)) == ("suspect", [])


@pytest.mark.parametrize("table", ["outbox", "sync_holds", "refresh_attempts"])
def test_a_verdict_is_written_whole_or_not_at_all(
    own_database_url: str,
    settings: Settings,
    simulator: StartedSimulator,
    start_worker: Callable[..., Runtime],
    table: str,
) -> None:
    # Fails without the transaction around `conclude`: seen for all three.
    db = Database(settings.database().rpartition("/")[0] + "/own")
    fleet = Fleet(db, settings, simulator)
    one = Attempts(start_worker(DATABASE_URL=own_database_url).refresher)
    (connected,) = fleet.connect()
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    fleet.witness()
    fleet.let_pass(CONFIRMED)
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE qbo.{table} ADD CONSTRAINT refused CHECK (false) NOT VALID".encode())
    claim = one.claimed(connected.id)
    with pytest.raises(DBAPIError):
        one.conclude(claim, GrantRejected())
    assert (fleet.row(connected.id).status, fleet.events(connected.id)) == ("suspect", [])
    assert fleet.holds(connected.id) == {"suspect"}
    assert len(fleet.attempts(connected.id)) == 1
    db.close()
