"""What each role of the database may do, as SQL: the worker everything, a host's processes no refresh token.

The roles are made without a password and without a login: who runs the database gives them both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

# The only tables that a host's process reads, and in them no column that holds, or recognises, a refresh token.
_READABLE = ("control", "apps", "connections", "external_ids", "sync_holds", "missed_runs", "outbox", "authorizations")
_STATUS_VIEW = "connection_status"  # made for them
_HIDDEN = ("refresh_token", "fingerprint", "lookup_check")
# What it may write: the count of skipped runs; links to connect, and what their callbacks bring.
_WRITABLE = {
    "missed_runs": ("INSERT (connection_id, runs)", "UPDATE (runs)"),
    "authorizations": (
        "INSERT (app_id, connection_id, external_id, label, redirect_url, state_hash, session_hash, expires_at)",
        "UPDATE (used_at, code_hash, code, realm_id)",
    ),
}


def statements(*, schema: str, worker: str, client: str) -> Iterator[str]:
    """Yield the statements that make both roles, or bring what they may do up to date; each may be repeated.

    Args:
        schema: Where the tables are.
        worker: The role of the workers, and of `qbo-refresh`.
        client: The role of a host's processes.
    """
    for role in (worker, client):
        yield _make(role)
        yield f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {_quoted(role)}"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {_quoted(schema)} TO {_quoted(worker)}"
    yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {_quoted(schema)} TO {_quoted(worker)}"
    yield f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {_quoted(schema)} TO {_quoted(worker)}"
    # A right that an earlier release gave, or somebody by hand, ends here; those on single columns end with it.
    yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {_quoted(schema)} FROM {_quoted(client)}"
    for table in (*_READABLE, _STATUS_VIEW):
        name = f"{_quoted(schema)}.{_quoted(table)}"
        for right in (f"SELECT{_columns(table)}", *_WRITABLE.get(table, ())):
            yield f"GRANT {right} ON {name} TO {_quoted(client)}"


def _columns(table: str) -> str:
    """Return which columns of a table a host's process may read, in SQL; an empty text for all."""
    if table == _STATUS_VIEW:
        return ""
    columns = [column.name for column in metadata.tables[table].columns]
    shown = [column for column in columns if not any(word in column for word in _HIDDEN)]
    return "" if shown == columns else f" ({', '.join(_quoted(column) for column in shown)})"


def _make(role: str) -> str:
    literal = role.replace("'", "''")
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{literal}') THEN"
        f" CREATE ROLE {_quoted(role)}; END IF; END $$"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def valkey_lines(*, worker: str, client: str) -> Iterator[str]:
    """Yield the lines of an ACL file for Redis or Valkey, each with a password to be filled in.

    The worker owns what begins with `qbo` and Celery's own keys. A host's process that has no app of its own on this
    server only puts messages into `qbo.adhoc`.
    """
    celery = "~qbo* ~celery* ~*.celery.pidbox* ~_kombu.binding* ~unacked* &*"
    yield f"user {worker} on >PASSWORD {celery} +@all -@admin -@dangerous +info +keys +config|get"
    yield (
        f"user {client} on >PASSWORD resetchannels ~qbo.adhoc* ~_kombu.binding*.qbo.adhoc* ~_kombu.binding_deadlines"
        " -@all +@connection +@transaction +lpush +llen +sadd +smembers +sismember +zadd +zrangebyscore +exists"
    )
