from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import SecretStr

from qbo_refresh.secret import Secret
from worker import health
from worker.store import reading
from worker.store.reading import Filter

if TYPE_CHECKING:
    from tests.support.fleet import Fleet
    from worker.database import Database
    from worker.settings import Settings


def ids(database: Database, which: Filter, limit: int | None = None) -> list[int]:
    return [row.id for row in reading.connections(database, which, limit=limit)]


def test_filters_choose_and_combine(fleet: Fleet, database: Database) -> None:
    first, second, third = (each.id for each in fleet.connect(3, label="eu"))
    fleet.update(first, "status = 'needs_reauth', next_refresh_at = NULL")
    fleet.update(second, "frozen = true, label = 'us'")
    database.execute("INSERT INTO qbo.sync_holds (connection_id, reason) VALUES (%(id)s, 'reauth')", {"id": first})
    assert ids(database, Filter()) == [first, second, third]
    assert ids(database, Filter(status="needs_reauth")) == [first]
    assert ids(database, Filter(label="eu")) == [first, third]
    assert ids(database, Filter(due=True)) == [third]
    assert ids(database, Filter(held=True, label="eu")) == [first]
    assert ids(database, Filter(frozen=True)) == [second]


def test_a_listing_goes_on_over_its_batches_and_stops_at_its_limit(fleet: Fleet, database: Database) -> None:
    made = [each.id for each in fleet.connect(5)]
    database.execute(
        "INSERT INTO qbo.connections (app_id, realm_id, realm_hash) SELECT %(app)s, '', sha256(n::text::bytea)"
        " FROM generate_series(1, 2100) AS n",
        {"app": fleet.row(made[0]).app_id},
    )
    assert len(ids(database, Filter())) == 2105
    assert len(ids(database, Filter(), limit=1500)) == 1500
    assert reading.count_after(database, Filter(), after=made[-1], at_most=10_000) == 2100
    assert reading.count_after(database, Filter(), after=made[-1], at_most=100) == 100


def test_a_listed_connection_has_its_names_and_holds(fleet: Fleet, database: Database) -> None:
    made = fleet.connect()[0]
    database.execute(
        "INSERT INTO qbo.external_ids (external_id, connection_id) VALUES ('b', %(id)s), ('a', %(id)s)", {"id": made.id}
    )
    (row,) = reading.connections(database, Filter(), limit=None)
    assert row.external_ids == ("a", "b")
    assert row.holds == ()
    assert made.realm_id not in repr(row)


def test_an_empty_fleet_is_well(database: Database, settings: Settings) -> None:
    assert health.problems(health.take(database, settings)) == []


def test_a_fleet_that_is_swept_is_well(fleet: Fleet, database: Database, settings: Settings) -> None:
    fleet.connect(2)
    database.execute("UPDATE qbo.apps SET swept_at = now()")
    found = health.take(database, settings)
    assert health.problems(found) == []
    assert found.by_status() == {"active": 2}
    assert found.queue_lengths == {"qbo.sweep": 0, "qbo.adhoc": 0, "qbo.events": 0}


def test_each_thing_that_is_wrong_is_said(fleet: Fleet, database: Database, settings: Settings) -> None:
    first, second, third = (each.id for each in fleet.connect(3))
    fleet.update(first, "next_refresh_at = now() - interval '3 hours'")
    fleet.update(second, "last_outcome = 'unreadable', next_refresh_at = now() + interval '1 hour'")
    fleet.update(third, "refresh_expires_at = now() + interval '9 days'")
    fleet.update(third, "created_at = now() - interval '27 hours', next_refresh_at = now() + interval '1 hour'")
    database.execute(
        "INSERT INTO qbo.app_blocks (app_id, secret_hash, reason, connection_ids, blocked_at)"
        " SELECT id, %(hash)s, 'invalid_client', '{}', now() - interval '5 min' FROM qbo.apps",
        {"hash": settings.lookup().secret_hash(settings.apps()[0].secrets[0])},
    )
    database.execute("INSERT INTO qbo.outbox (type, created_at) VALUES ('app.blocked', now() - interval '3 hours')")
    delivering = settings.model_copy(update={"event_task": "host.tasks.on_event"})
    said = "\n".join(health.problems(health.take(database, delivering)))
    for part in (
        "no sweep has ever run",
        "Events have been waiting for delivery for 3 h",
        "has refused a client secret",
        "2 connections are overdue",
        "1 connections do not open",
        "1 grants expire within 10 days",
    ):
        assert part in said


def test_a_previous_secret_that_is_refused_behind_one_that_works_is_no_problem(
    fleet: Fleet, database: Database, settings: Settings
) -> None:
    fleet.connect()
    (app,) = settings.apps()
    current, previous = (settings.lookup().secret_hash(each) for each in (app.secrets[0], Secret("the one before")))
    both = settings.model_copy(update={"intuit_client_secret_previous": SecretStr("the one before")})

    def problems_with(blocked: bytes) -> list[str]:
        database.execute("DELETE FROM qbo.app_blocks")
        database.execute(
            "INSERT INTO qbo.app_blocks (app_id, secret_hash, reason, connection_ids, blocked_at)"
            " SELECT id, %(hash)s, 'invalid_client', '{}', now() FROM qbo.apps",
            {"hash": blocked},
        )
        return [each for each in health.problems(health.take(database, both)) if "has refused a client secret" in each]

    assert problems_with(previous) == []
    assert len(problems_with(current)) == 1


def test_a_sweep_stalls_after_three_periods_and_only_while_something_is_due(
    fleet: Fleet, database: Database, settings: Settings
) -> None:
    made = fleet.connect()[0]
    sweep = timedelta(seconds=settings.sweep_seconds)
    database.execute("UPDATE qbo.apps SET swept_at = now() - %(since)s::interval", {"since": 2 * sweep})
    assert health.problems(health.take(database, settings)) == []
    database.execute("UPDATE qbo.apps SET swept_at = now() - %(since)s::interval", {"since": 4 * sweep})
    assert "the last sweep was 4 min ago" in health.problems(health.take(database, settings))[0]
    fleet.update(made.id, "next_refresh_at = now() + interval '1 hour'")
    assert health.problems(health.take(database, settings)) == []


def test_a_freeze_and_missing_keys_are_said(fleet: Fleet, database: Database, settings: Settings) -> None:
    fleet.connect(2)
    database.execute("UPDATE qbo.control SET frozen = true, frozen_reason = 'moving'")
    elsewhere = settings.model_copy(update={"intuit_client_id": "another"})
    frozen, keyless = health.problems(health.take(database, elsewhere))
    assert "frozen (moving)" in frozen
    assert "2 connections belong to the sandbox app" in keyless


def test_it_works_and_says_so_while_redis_is_away(database: Database, settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    found = health.take(database, away)
    assert found.queue_lengths is None
    assert health.problems(found) == [
        "Redis at REDIS_URL cannot be reached: is it running, and are host and port right?"
    ]
