from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

import qbo_refresh
from qbo_refresh import authorizing, configuration, database, other_side
from qbo_refresh.tables import metadata
from tests.support.hosts import configured
from worker.database import Database
from worker.store import roles

if TYPE_CHECKING:
    from collections.abc import Iterator

_PASSWORD = secrets.token_hex(8)
_WORKER, _CLIENT = "a_worker", "a client's"


def as_role(url: str, role: str) -> str:
    """Return the URL of a database for another role."""
    parts = urlsplit(url)
    name = role.replace(" ", "%20").replace("'", "%27")
    return parts._replace(netloc=f"{name}:{_PASSWORD}@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
def with_roles(own_database_url: str) -> Iterator[str]:
    """Give a database with both roles, made twice: the second time changes nothing."""
    with psycopg.connect(own_database_url, autocommit=True) as admin:
        for statement in [*roles.statements(schema="qbo", worker=_WORKER, client=_CLIENT)] * 2:
            admin.execute(statement.encode())
        for role in (_WORKER, _CLIENT):
            quoted = role.replace('"', '""')
            admin.execute(f"ALTER ROLE \"{quoted}\" LOGIN PASSWORD '{_PASSWORD}'".encode())
        yield own_database_url
        for role in (_WORKER, _CLIENT):
            admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"'.encode())


def test_a_hosts_role_reads_no_refresh_token_in_any_column_of_any_table(with_roles: str) -> None:
    secret = {
        ("connections", column.name) for column in metadata.tables["connections"].columns if "token" in column.name
    } - {("connections", name) for name in ("token_version", "access_token", "token_obtained_at")}
    assert len(secret) == 4
    secret |= {("candidates", "refresh_token"), ("candidates", "fingerprint"), ("connections", "known_fingerprint")}
    secret |= {("refresh_attempts", "fingerprint_after"), ("app_blocks", "secret_hash"), ("control", "lookup_check")}
    with psycopg.connect(as_role(with_roles, _CLIENT), autocommit=True) as client:
        for table, column in secret:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                client.execute(f"SELECT {column} FROM qbo.{table}".encode())  # noqa: S608  # names of this test
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.execute("SELECT * FROM qbo.connections")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE qbo.connections SET access_token = NULL",
        "UPDATE qbo.connections SET next_refresh_at = now()",
        "DELETE FROM qbo.connections",
        "DELETE FROM qbo.sync_holds",
        "UPDATE qbo.control SET frozen = true",
        "INSERT INTO qbo.outbox (type) VALUES ('made.up')",
        "UPDATE qbo.missed_runs SET connection_id = 1",
        "UPDATE qbo.authorizations SET outcome = 'connected'",
        "UPDATE qbo.authorizations SET expires_at = now()",
        "DELETE FROM qbo.authorizations",
        "SELECT refresh_token FROM qbo.revocations",
        "TRUNCATE qbo.missed_runs",
        "CREATE TABLE qbo.mine ()",
    ],
)
def test_a_hosts_role_changes_nothing_but_the_count_of_missed_runs_and_links_to_connect(
    with_roles: str, statement: str
) -> None:
    with (
        psycopg.connect(as_role(with_roles, _CLIENT), autocommit=True) as client,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        client.execute(statement.encode())


def test_a_host_and_its_view_of_the_fleet_work_under_its_role(with_roles: str, environment: dict[str, str]) -> None:
    with psycopg.connect(with_roles, autocommit=True) as admin:
        admin.execute("INSERT INTO qbo.apps (id, environment, client_id) VALUES (1, 'sandbox', 'x')")
        admin.execute(
            "INSERT INTO qbo.connections (id, app_id, realm_id, realm_hash, label) VALUES (7, 1, '', '', 'Acme')"
        )
        admin.execute("INSERT INTO qbo.external_ids VALUES ('acme-1', 7)")
        admin.execute("INSERT INTO qbo.outbox (connection_id, sequence, type) VALUES (7, 1, 'sync.paused')")
    with configured(
        environment, database_url=as_role(with_roles, _CLIENT), redirect_url="https://host.invalid/callback"
    ):
        assert qbo_refresh.ensure_syncable("external:acme-1") == 7
        other_side.here().count_missed(7)
        other_side.here().count_missed(7)
        assert [event.type for event in qbo_refresh.events()] == ["sync.paused"]
        session = secrets.token_urlsafe()
        link = qbo_refresh.authorize_url("external:acme-1", session)
        (state,) = parse_qs(urlsplit(link).query)["state"]
        accepted = authorizing.accept(configuration.current(), "code", state, "9130350000000000", session)
        assert authorizing.outcome(database.database(), accepted) == (None, "in_progress")
        database.database().close()
    db = Database(as_role(with_roles, _CLIENT))
    seen = db.execute("SELECT id, external_ids, label, status, frozen, holds FROM qbo.connection_status").all()
    assert [tuple(row) for row in seen] == [(7, ["acme-1"], "Acme", "active", False, [])]
    assert db.execute("SELECT runs FROM qbo.missed_runs").one().runs == 2
    db.close()


def test_the_view_of_the_fleet_has_no_token_and_no_realm(own_database_url: str) -> None:
    with psycopg.connect(own_database_url) as admin:
        columns = {c.name for c in admin.execute("SELECT * FROM qbo.connection_status").description or ()}
    assert {"id", "external_ids", "label", "status", "frozen", "holds", "last_refreshed_at", "due_at"} <= columns
    assert not [name for name in columns if "token" in name or "realm" in name]
