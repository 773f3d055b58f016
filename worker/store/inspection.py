"""What `doctor` asks PostgreSQL: about the server, the role, and with which keys the rows are sealed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Place, realm_place
from worker.policy import LONGEST_LEASE
from worker.store.blobs import IS_BLOB, KEY_ID_TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.database import Database


@dataclass(frozen=True, slots=True)
class Server:
    """The server at the other end.

    Attributes:
        version: As PostgreSQL numbers it: 180006 is 18.6.
        pooled: Something between answers for it: the process it announced is not the one that works.
    """

    version: int
    read_only: bool
    pooled: bool


def server(db: Database) -> Server:
    """Return what the server is."""
    row = db.execute(
        "SELECT current_setting('server_version_num')::int AS version, pg_backend_pid() AS pid,"
        " pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS read_only"
    ).one()
    driver = db.connection().connection.driver_connection
    announced = driver.info.backend_pid if driver is not None else row.pid
    return Server(row.version, row.read_only, announced != row.pid)


def now(db: Database) -> datetime:
    """Return the database's time."""
    moment: datetime = db.execute("SELECT now() AS at").one().at
    return moment


_PRIVILEGES = """
SELECT lower(p.name) || ' ' || c.relname AS missing
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS p (name)
WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND c.relname <> 'alembic_version'
  AND NOT has_table_privilege(c.oid, p.name)
ORDER BY 1
"""


def missing_privileges(db: Database, *, schema: str) -> list[str]:
    """Return what this role may not do: `update connections` and the like."""
    return [row.missing for row in db.execute(_PRIVILEGES, {"schema": schema})]


def frozen(db: Database) -> str | None:
    """Return why everything is frozen, perhaps an empty text; None if it is not."""
    row = db.execute("SELECT frozen, COALESCE(frozen_reason, '') AS reason FROM qbo.control").one_or_none()
    return str(row.reason) if row is not None and row.frozen else None


def impossible_leases(db: Database) -> list[int]:
    """Return connections whose lease ends later than any can. Goes over every row."""
    rows = db.execute(
        "SELECT id FROM qbo.connections WHERE leased_until > now() + %(longest)s::interval ORDER BY id",
        {"longest": LONGEST_LEASE},
    )
    return [row.id for row in rows]


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections the server takes from an ordinary role, and how many it has."""

    most: int
    used: int


def room(db: Database) -> Room:
    """Return how many connections to this server there may be and are."""
    row = db.execute(
        "SELECT current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int AS most,"
        " (SELECT COALESCE(sum(numbackends), 0) FROM pg_stat_database)::int AS used"
    ).one()
    return Room(row.most, row.used)


_KEYS_IN_USE = f"""
SELECT key_id, sum(n)::bigint AS n FROM (
    SELECT {KEY_ID_TEXT.format("b.blob")} AS key_id, count(*) AS n
    FROM qbo.connections c CROSS JOIN LATERAL (
        VALUES (c.refresh_token), (c.previous_refresh_token), (c.access_token), (c.realm_id)) AS b (blob)
    WHERE {IS_BLOB.format("b.blob")} GROUP BY 1
    UNION ALL
    SELECT {KEY_ID_TEXT.format("refresh_token")}, count(*) FROM qbo.candidates
    WHERE {IS_BLOB.format("refresh_token")} GROUP BY 1
    UNION ALL
    SELECT {KEY_ID_TEXT.format("refresh_token")}, count(*) FROM qbo.revocations
    WHERE {IS_BLOB.format("refresh_token")} GROUP BY 1
    UNION ALL
    SELECT {KEY_ID_TEXT.format("b.blob")}, count(*)
    FROM qbo.authorizations z CROSS JOIN LATERAL (VALUES (z.code), (z.realm_id)) AS b (blob)
    WHERE {IS_BLOB.format("b.blob")} GROUP BY 1
) AS blobs GROUP BY key_id ORDER BY n DESC
"""  # noqa: S608  # composed of constants


def keys_in_use(db: Database) -> dict[str, int]:
    """Return key id → how many blobs, in whatever table, are sealed with it. Goes over every row."""
    return {row.key_id: row.n for row in db.execute(_KEYS_IN_USE)}


@dataclass(frozen=True, slots=True)
class Sample:
    """One connection's sealed values, and where they belong."""

    connection_id: int
    refresh_token: bytes = field(repr=False)
    token_place: Place
    realm: bytes = field(repr=False)
    realm_place: Place
    realm_hash: bytes


_SAMPLES = f"""
WITH one_for_each_key AS (
    SELECT max(id) AS id FROM qbo.connections WHERE {IS_BLOB.format("refresh_token")}
    GROUP BY {KEY_ID_TEXT.format("refresh_token")}
), newest AS (
    SELECT id FROM qbo.connections WHERE refresh_token IS NOT NULL ORDER BY id DESC LIMIT %(newest)s
)
SELECT c.id, a.environment, c.grant_number, c.refresh_token, c.realm_id, c.realm_hash
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id
WHERE c.id IN (SELECT id FROM newest UNION SELECT id FROM one_for_each_key) ORDER BY c.id DESC
"""  # noqa: S608  # composed of constants


def samples(db: Database, *, newest: int) -> Sequence[Sample]:
    """Return the newest connections that have a token, and one more for each key id. Goes over every row."""
    return [
        Sample(
            row.id,
            bytes(row.refresh_token),
            Place(row.environment, row.id, row.grant_number, Field.REFRESH_TOKEN),
            bytes(row.realm_id),
            realm_place(row.environment, row.id),
            bytes(row.realm_hash),
        )
        for row in db.execute(_SAMPLES, {"newest": newest})
    ]


def attempts_before(db: Database, moment: datetime) -> int:
    """Return how many attempts that began before a moment are under way still. Goes over every row."""
    row = db.execute(
        "SELECT count(*) AS n FROM qbo.connections WHERE leased_until > now()"
        " AND leased_until <= now() + %(longest)s::interval AND attempt_began_at < %(moment)s",
        {"moment": moment, "longest": LONGEST_LEASE},
    ).one()
    return int(row.n)


def environments(db: Database, connection_ids: Sequence[int]) -> dict[int, str]:
    """Return connection id → its app's environment, for those that are there."""
    rows = db.execute(
        "SELECT c.id, a.environment FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id"
        " WHERE c.id = ANY (%(ids)s::bigint[])",
        {"ids": list(connection_ids)},
    )
    return {row.id: row.environment for row in rows}


def consent_environments(db: Database, authorization_ids: Sequence[int]) -> dict[int, str]:
    """Return authorization id → its app's environment, for those that are there."""
    rows = db.execute(
        "SELECT z.id, a.environment FROM qbo.authorizations z JOIN qbo.apps a ON a.id = z.app_id"
        " WHERE z.id = ANY (%(ids)s::bigint[])",
        {"ids": list(authorization_ids)},
    )
    return {row.id: row.environment for row in rows}


def rows_by_app(db: Database) -> dict[tuple[str, str], int]:
    """Return (environment, client id) → how many connections of it are to be refreshed."""
    rows = db.execute(
        "SELECT a.environment, a.client_id, count(c.next_refresh_at) AS n"
        " FROM qbo.apps a LEFT JOIN qbo.connections c ON c.app_id = a.id GROUP BY a.id ORDER BY a.id"
    )
    return {(row.environment, row.client_id): row.n for row in rows}
