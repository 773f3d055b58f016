"""The rows that contenders refresh: made once, made due again before each lap. Their tokens rotate for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Keyring, Lookup, Place, realm_place
from qbo_refresh.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import psycopg

    from benchmarks.stage import Stage
    from intuit_simulator import CreatedGrant

ENVIRONMENT = "sandbox"  # as the simulator's settings have it
# Contender → its table, and the column that says when a connection was refreshed last.
TABLES = {
    "bare": ("bench.bare", "refreshed_at"),
    "handwritten": ("bench.handwritten", "refreshed_at"),
    "handwritten_once": ("bench.handwritten", "refreshed_at"),
    "worker": ("qbo.connections", "last_refreshed_at"),
    "worker_alone": ("qbo.connections", "last_refreshed_at"),
}

_PLAIN_TABLE = """
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE {name} (
    id bigint PRIMARY KEY, realm_id text NOT NULL, refresh_token text NOT NULL, access_token text,
    access_expires_at timestamptz, refreshed_at timestamptz
) WITH (fillfactor = 80)
"""
# Spread over an hour, as a day's schedule is; a sweep never meets thousands of rows due at one instant.
_AN_HOUR = "now() - random() * interval '1 hour'"


def make(stage: Stage, contenders: Iterable[str], size: int) -> None:
    """Make the tables and rows of these contenders, a fresh grant for each row."""
    for table in dict.fromkeys(TABLES[contender][0] for contender in contenders if contender in TABLES):
        grants = stage.simulator.create_grants(size)
        if table == "qbo.connections":
            _seal(stage, grants)
            continue
        stage.db.execute(_PLAIN_TABLE.format(name=table).encode())
        with stage.db.cursor().copy(f"COPY {table} (id, realm_id, refresh_token) FROM STDIN".encode()) as copy:
            for number, grant in enumerate(grants, 1):
                copy.write_row((number, grant.realm_id, grant.refresh_token))


def _seal(stage: Stage, grants: Sequence[CreatedGrant]) -> None:
    keyring, lookup = Keyring.from_text(stage.env["TOKEN_KEYS"]), Lookup.from_text(stage.env["LOOKUP_KEY"])
    app_id = _app(stage)
    with stage.db.cursor().copy(
        "COPY qbo.connections (id, app_id, realm_id, realm_hash, refresh_token, refresh_token_fingerprint,"
        " refresh_expires_at) FROM STDIN"
    ) as copy:
        for number, grant in enumerate(grants, 1):
            realm, token = Secret(grant.realm_id), Secret(grant.refresh_token)
            copy.write_row(
                (
                    number,
                    app_id,
                    keyring.seal(realm, realm_place(ENVIRONMENT, number)),
                    lookup.realm_hash(realm),
                    keyring.seal(token, Place(ENVIRONMENT, number, 1, Field.REFRESH_TOKEN)),
                    lookup.fingerprint(token),
                    "2099-01-01T00:00:00Z",
                )
            )


def _app(stage: Stage) -> int:
    row = stage.db.execute(
        "INSERT INTO qbo.apps (environment, client_id) VALUES (%s, %s)"
        " ON CONFLICT (environment, client_id) DO UPDATE SET client_id = EXCLUDED.client_id RETURNING id",
        (ENVIRONMENT, stage.env["INTUIT_CLIENT_ID"]),
    ).fetchone()
    assert row
    return int(row[0])


def make_dummies(stage: Stage, size: int) -> None:
    """Put rows that nobody will refresh in place of the worker's, as wide as real ones."""
    stage.db.execute("TRUNCATE qbo.connections CASCADE")
    stage.db.execute(
        "INSERT INTO qbo.connections (app_id, realm_id, realm_hash, refresh_token, refresh_token_fingerprint,"
        " access_token, refresh_expires_at)"
        " SELECT %s, sha256(n::text::bytea), decode(md5(n::text), 'hex'), decode(repeat(md5(n::text), 5), 'hex'),"
        " decode(md5(n::text), 'hex'), decode(repeat(md5(n::text), 52), 'hex'), now() + interval '100 days'"
        " FROM generate_series(1, %s) AS n",
        (_app(stage), size),
    )
    make_due(stage, size)
    stage.db.execute("VACUUM ANALYZE")


def make_due(stage: Stage, count: int) -> None:
    """Make exactly `count` of the worker's rows due, and let the next sweep run."""
    stage.db.execute(
        "UPDATE qbo.connections SET next_refresh_at = now() + interval '1 day' WHERE next_refresh_at < now()"
    )
    stage.db.execute(
        f"UPDATE qbo.connections SET next_refresh_at = {_AN_HOUR}, not_before = NULL, queued_until = NULL"  # noqa: S608
        " WHERE id IN (SELECT id FROM qbo.connections ORDER BY id LIMIT %s)".encode(),
        (count,),
    )
    stage.db.execute("UPDATE qbo.apps SET swept_at = NULL")


def clock(db: psycopg.Connection) -> datetime:
    """Return the database's time: the one clock by which laps are timed."""
    row = db.execute("SELECT clock_timestamp()").fetchone()
    assert row
    moment: datetime = row[0]
    return moment


def finished(db: psycopg.Connection, contender: str, *, since: datetime) -> tuple[int, datetime]:
    """Return how many connections were refreshed since then, and when the last one was."""
    table, column = TABLES[contender]
    row = db.execute(
        f"SELECT count(*), COALESCE(max({column}), %(since)s) FROM {table} WHERE {column} >= %(since)s".encode(),  # noqa: S608
        {"since": since},
    ).fetchone()
    assert row
    return row[0], row[1]


def exposed_ms(db: psycopg.Connection, *, since: datetime) -> tuple[float, float]:
    """Return how long a received token was nowhere durable since then: what the half and 99 in 100 did not exceed."""
    row = db.execute(
        "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY exposed_us) FROM qbo.refresh_attempts"
        " WHERE began_at >= %s",
        (since,),
    ).fetchone()
    assert row
    half, most = row[0]
    return half / 1000, most / 1000
