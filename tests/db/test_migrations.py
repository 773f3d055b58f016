from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from alembic import command
from tests.conftest import migrate, settings_of, with_database
from tests.support.fleet import Fleet
from worker import runtime, schema
from worker import settings as worker_settings
from worker.attempt import Trigger
from worker.database import LOCK_NOT_AVAILABLE, Database, sqlstate
from worker.ending import disconnect
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from intuit_simulator import StartedSimulator
    from tests.support.commands import Run
    from worker.embedded import Servers
    from worker.runtime import Runtime
    from worker.settings import Settings


@pytest.fixture
def empty_database_url(session_servers: Servers) -> Iterator[str]:
    with psycopg.connect(session_servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
        yield with_database(session_servers.database_url, "empty")
        connection.execute("DROP DATABASE empty WITH (FORCE)")


def tables(url: str, schema_name: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", [schema_name]
        )
        return {name for (name,) in rows}


def test_the_revision_that_this_code_needs_is_the_last_of_its_migrations() -> None:
    assert ScriptDirectory.from_config(schema.alembic_config()).get_current_head() == schema.HEAD


def test_the_tables_are_made_in_the_configured_schema_and_nowhere_else(empty_database_url: str) -> None:
    migrate(empty_database_url, schema_name="of_the_host")
    migrate(empty_database_url, schema_name="of_the_host")
    made = tables(empty_database_url, "of_the_host")
    assert {"connections", "refresh_attempts", "candidates", "control", "alembic_version"} <= made
    assert tables(empty_database_url, "public") == set()
    assert tables(empty_database_url, "qbo") == set()


def test_the_code_works_in_a_schema_of_another_name(empty_database_url: str, environment: dict[str, str]) -> None:
    migrate(empty_database_url, schema_name="of_the_host")
    config = settings_of(environment | {"DATABASE_URL": empty_database_url, "DATABASE_SCHEMA": "of_the_host"})
    db = Database(config.database(), schema="of_the_host")
    schema.check(db, config)
    assert db.execute("SELECT count(*) AS n FROM qbo.control").one().n == 1
    db.close()


def test_the_migrations_make_exactly_the_tables_of_the_code(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBO_DATABASE_URL", own_database_url)
    worker_settings.load.cache_clear()
    try:
        command.check(schema.alembic_config())
    finally:
        worker_settings.load.cache_clear()


@pytest.fixture
def of_the_first_release(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a database at revision 0001 with a row, as its owner and a client's role that may read the row's ends."""
    monkeypatch.setenv("QBO_DATABASE_URL", empty_database_url)
    worker_settings.load.cache_clear()
    command.upgrade(schema.alembic_config(), "0001")
    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute("CREATE ROLE reader")
        admin.execute("GRANT SELECT (id, hard_expires_at) ON qbo.connections TO reader")
        admin.execute("GRANT SELECT, DELETE ON qbo.app_blocks TO reader")
        admin.execute("GRANT SELECT ON qbo.connection_status TO reader; GRANT USAGE ON SCHEMA qbo TO reader")
        admin.execute("INSERT INTO qbo.apps (id, environment, client_id) VALUES (1, 'sandbox', 'x')")
        admin.execute(
            "INSERT INTO qbo.connections (id, app_id, realm_id, realm_hash, hard_expires_at)"
            " VALUES (7, 1, '', '', '2031-01-01Z')"
        )
        yield empty_database_url
        admin.execute("DROP OWNED BY reader; DROP ROLE reader")
    worker_settings.load.cache_clear()


def seen_by_reader(url: str, what: str) -> object:
    with psycopg.connect(url) as connection:
        connection.execute("SET ROLE reader")
        return connection.execute(f"SELECT {what}".encode()).fetchone()


def test_the_first_tables_are_brought_up_with_their_rows_and_back_and_nobody_loses_a_right(
    of_the_first_release: str,
) -> None:
    # Fails without `_READERS` or `_VIEWERS` in 0002, `_WRITERS` in 0003, and with a default that is not constant: seen.
    file = "pg_relation_filenode('qbo.connections')"
    before = seen_by_reader(of_the_first_release, file)
    command.upgrade(schema.alembic_config(), "head")
    command.check(schema.alembic_config())
    assert seen_by_reader(of_the_first_release, file) == before, "no row was written anew"
    ends = "id, hard_expires_at = '2031-01-01Z', hard_expires_inferred FROM qbo."
    assert seen_by_reader(of_the_first_release, f"{ends}connections") == (7, True, False)
    assert seen_by_reader(of_the_first_release, f"{ends}connection_status") == (7, True, False)
    rights = (
        "array_agg(has_table_privilege('qbo.unreadable_keys', name)) FROM unnest(ARRAY['select', 'delete', 'insert'])"
    )
    assert seen_by_reader(of_the_first_release, f"{rights} AS name") == ([True, True, False],), "as on app_blocks"
    command.downgrade(schema.alembic_config(), "0001")
    assert seen_by_reader(of_the_first_release, "id, hard_expires_at FROM qbo.connection_status") is not None
    with psycopg.connect(of_the_first_release) as connection, pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute("SELECT hard_expires_inferred FROM qbo.connections")
    command.upgrade(schema.alembic_config(), "head")
    assert seen_by_reader(of_the_first_release, f"{ends}connection_status") == (7, True, False)


def test_a_migration_behind_a_long_query_gives_up_instead_of_stopping_every_refresh(of_the_first_release: str) -> None:
    # Fails without lock_timeout in alembic/env.py: it waits, and every claim behind it.
    with psycopg.connect(of_the_first_release) as reader:
        reader.execute("SELECT count(*) FROM qbo.connections")
        with pytest.raises(DBAPIError) as caught:
            command.upgrade(schema.alembic_config(), "head")
    assert sqlstate(caught.value) == LOCK_NOT_AVAILABLE
    command.upgrade(schema.alembic_config(), "head")


def test_each_release_says_what_it_needs_of_the_one_before(
    of_the_first_release: str, environment: dict[str, str]
) -> None:
    with pytest.raises(schema.NotMigrated) as caught:
        runtime.build(settings_of(environment | {"DATABASE_URL": of_the_first_release}))
    assert str(caught.value) == (
        f"The tables are at revision 0001, this code needs {schema.HEAD}: run `qbo-refresh migrate`."
    )


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DROP SCHEMA qbo CASCADE", "has no tables yet: run `qbo-refresh migrate`"),
        ("DELETE FROM qbo.alembic_version", "has no tables yet: run `qbo-refresh migrate`"),
    ],
)
def test_a_database_without_our_tables_is_told_in_a_sentence(
    own_database_url: str, environment: dict[str, str], statement: str, sentence: str
) -> None:
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute(statement.encode())
    config = settings_of(environment | {"DATABASE_URL": own_database_url})
    db = Database(config.database())
    with pytest.raises(schema.NotMigrated, match=sentence):
        schema.check(db, config)
    db.close()


def test_a_newer_schema_is_accepted_for_a_roll_back_must_run(
    own_database_url: str, environment: dict[str, str]
) -> None:
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute("UPDATE qbo.alembic_version SET version_num = '9999'")
    config = settings_of(environment | {"DATABASE_URL": own_database_url})
    db = Database(config.database())
    schema.check(db, config)
    db.close()


def of_a_later_release(url: str) -> None:
    """Expand the tables as a later release may: a column in each that may be NULL, and one more table."""
    with psycopg.connect(url, autocommit=True) as connection:
        for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'qbo'").fetchall():
            connection.execute(f"ALTER TABLE qbo.{name} ADD COLUMN later text".encode())
        connection.execute("CREATE TABLE qbo.later (id bigint REFERENCES qbo.connections ON DELETE CASCADE)")
        connection.execute("UPDATE qbo.alembic_version SET version_num = '9999'")


def test_row_29_this_release_beside_a_later_one_works_on_its_tables_and_leaves_what_it_does_not_know(  # noqa: PLR0917  # fixtures
    own_database_url: str,
    settings: Settings,
    simulator: StartedSimulator,
    start_worker: Callable[..., Runtime],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Fails with a check that accepts this code's own revision alone: seen.
    of_a_later_release(own_database_url)
    monkeypatch.setenv("QBO_DATABASE_URL", own_database_url)
    worker = start_worker(DATABASE_URL=own_database_url)
    fleet = Fleet(worker.db, settings, simulator)
    well, revoked, ended = fleet.connect(3)
    fleet.update(None, "later = 'the later release has written this'")
    simulator.revoke(revoked.realm_id)
    for each in (well, revoked):
        refresh(worker.refresher, each.id, trigger=Trigger.SWEEP)
    fleet.witness()
    fleet.let_pass(timedelta(minutes=16))
    refresh(worker.refresher, revoked.id, trigger=Trigger.SWEEP)
    assert (fleet.holds_the_live_token(well), fleet.row(revoked.id).status) == (True, "needs_reauth")
    assert disconnect(worker.ender, ended.id).outcome == "disconnected"
    (tmp_path / "new.jsonl").write_text('{"realm_id": "77", "refresh_token": "RT1-001-H0-made-up-for-a-test"}\n')
    for command_line in (["import", "new.jsonl"], ["keys", "rotate"], ["list"], ["explain", str(revoked.id)]):
        assert run(*command_line)[0] == 0, command_line
    assert fleet.events() + fleet.events(revoked.id) == ["connection.needs_reauth", "sync.paused"]
    later = "SELECT id FROM qbo.connections WHERE later = 'the later release has written this' ORDER BY id"
    assert [row.id for row in fleet.db.execute(later)] == [well.id, revoked.id, ended.id]


@pytest.mark.parametrize(
    "assignments",
    [
        "token_version = token_version - 1",
        "refresh_token_fingerprint = '\\x00'",
        "refresh_token_fingerprint = NULL",
        "token_version = token_version - 1, refresh_token_fingerprint = '\\x00'",
    ],
)
def test_the_version_only_grows_and_must_when_the_token_changes(fleet: Fleet, assignments: str) -> None:
    (connected,) = fleet.connect()
    with pytest.raises(DBAPIError) as caught:
        fleet.update(connected.id, assignments)
    assert "may only grow" in str(caught.value.orig)
    assert fleet.row(connected.id).token_version == 1


@pytest.mark.parametrize(
    "assignments",
    [
        "token_version = token_version + 1",
        "token_version = token_version + 5, refresh_token_fingerprint = '\\x00'",
        "refresh_token = '\\x01'",
        "status = 'suspect'",
    ],
)
def test_what_keeps_the_fence_is_allowed(fleet: Fleet, assignments: str) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, assignments)


@pytest.mark.parametrize("assignments", ["status = 'refreshing'", "status = NULL", "token_version = NULL"])
def test_a_status_that_is_none_is_refused_by_the_database(fleet: Fleet, assignments: str) -> None:
    (connected,) = fleet.connect()
    with pytest.raises(DBAPIError):
        fleet.update(connected.id, assignments)
