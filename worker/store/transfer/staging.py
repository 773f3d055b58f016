"""The lines of an import on their way into the tables: staged, compared with each other, written set by set.

They are staged, tokens sealed, in temporary tables that end with the transaction: nothing is left of an import that
fails, and it works behind PgBouncer in transaction mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from worker.store import writers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import psycopg

    from worker.database import Database


class Staged(NamedTuple):
    """One line on its way into the tables; the fields are those of `import_lines`, in order."""

    line: int
    action: str
    connection_id: int
    grant_number: int
    app_id: int
    realm_hash: bytes
    fingerprint: bytes
    external_id: str | None
    adds_name: bool
    label: str | None = None
    realm_id: bytes | None = None
    refresh_token: bytes | None = None
    access_token: bytes | None = None
    token_obtained_at: datetime | None = None
    access_expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    hard_expires_at: datetime | None = None
    next_refresh_at: datetime | None = None


_TYPES = {
    "line": "int8",
    "action": "text",
    "connection_id": "int8",
    "grant_number": "int4",
    "app_id": "int4",
    "realm_hash": "bytea",
    "fingerprint": "bytea",
    "external_id": "text",
    "adds_name": "bool",
    "label": "text",
    "realm_id": "bytea",
    "refresh_token": "bytea",
    "access_token": "bytea",
    "token_obtained_at": "timestamptz",
    "access_expires_at": "timestamptz",
    "refresh_expires_at": "timestamptz",
    "hard_expires_at": "timestamptz",
    "next_refresh_at": "timestamptz",
}
_LINES = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())


def begin(db: Database) -> datetime:
    """Make the temporary tables of this transaction, lift its time limits, and return the database's time."""
    # Settings that this version of PostgreSQL does not know are passed over.
    db.execute(
        "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN"
        " ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
    )
    db.execute("SELECT set_config('work_mem', '64MB', true)")
    db.execute(f"CREATE TEMPORARY TABLE import_lines ({_LINES}) ON COMMIT DROP")
    db.execute("CREATE TEMPORARY TABLE import_refusals (line int8, reason text) ON COMMIT DROP")
    db.execute("CREATE TEMPORARY TABLE import_further (line int8, connection_id int8) ON COMMIT DROP")
    moment: datetime = db.execute("SELECT now() AS now").one().now
    return moment


def _copy(db: Database, statement: str, types: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    # SQLAlchemy has no COPY; the driver's own connection is in the same transaction.
    driver: psycopg.Connection[Any] = db.connection().connection.driver_connection  # type: ignore[assignment]
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(list(types))
        for row in rows:
            copy.write_row(row)


def stage(db: Database, lines: Iterable[Staged]) -> None:
    """Add lines to those that are to be written."""
    _copy(db, "COPY import_lines FROM STDIN (FORMAT BINARY)", _TYPES.values(), lines)


def refuse(db: Database, refusals: Iterable[tuple[int, str]]) -> None:
    """Add line numbers and reasons to those that are not."""
    _copy(db, "COPY import_refusals FROM STDIN (FORMAT BINARY)", ("int8", "text"), refusals)


# Different tokens for one realm: nobody can tell which line is right, so none is taken. Lines with one token may
# differ in the external id: each adds a name.
_REFUSE_REALMS = """
INSERT INTO import_refusals (line, reason)
WITH repeated AS (
    SELECT app_id, realm_hash FROM import_lines GROUP BY app_id, realm_hash HAVING count(*) > 1
), placed AS (
    SELECT l.line, l.app_id, l.realm_hash, l.fingerprint, l.external_id, row_number() OVER (
               PARTITION BY l.app_id, l.realm_hash, l.external_id ORDER BY l.line) AS place
    FROM import_lines l JOIN repeated g ON g.app_id = l.app_id AND g.realm_hash = l.realm_hash
), compared AS (
    SELECT app_id, realm_hash, min(line) AS first, max(line) AS last, count(DISTINCT fingerprint) > 1 AS tokens_differ
    FROM placed GROUP BY app_id, realm_hash
)
SELECT l.line, CASE WHEN g.tokens_differ
                    THEN 'realm_id is that of line ' || CASE WHEN l.line = g.first THEN g.last ELSE g.first END
                         || ' too, with another refresh_token'
                    ELSE 'realm_id and refresh_token are those of line ' || g.first || ' already' END
FROM placed l JOIN compared g ON g.app_id = l.app_id AND g.realm_hash = l.realm_hash
WHERE g.tokens_differ OR l.line > g.first AND (l.external_id IS NULL OR l.place > 1)
"""
_REFUSE_SHARED = """
INSERT INTO import_refusals (line, reason)
WITH repeated AS (
    SELECT {key} FROM import_lines WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1
), among AS (
    SELECT l.line, l.{key}, l.app_id, l.realm_hash FROM import_lines l JOIN repeated g ON g.{key} = l.{key}
), shared AS (
    SELECT {key}, min(line) AS first, max(line) AS last FROM among
    GROUP BY {key} HAVING count(DISTINCT (app_id, realm_hash)) > 1
)
SELECT l.line, '{column} is that of line ' || CASE WHEN l.line = g.first THEN g.last ELSE g.first END
               || ' too, which has another realm_id'
FROM among l JOIN shared g ON g.{key} = l.{key}
"""
_FIND_FURTHER = """
INSERT INTO import_further (line, connection_id)
SELECT line, first_id
FROM (SELECT l.line, row_number() OVER same AS place, first_value(l.connection_id) OVER same AS first_id
      FROM import_lines l
      JOIN (SELECT app_id, realm_hash FROM import_lines GROUP BY app_id, realm_hash HAVING count(*) > 1) g
        ON g.app_id = l.app_id AND g.realm_hash = l.realm_hash
      WHERE NOT EXISTS (SELECT FROM import_refusals r WHERE r.line = l.line)
      WINDOW same AS (PARTITION BY l.app_id, l.realm_hash ORDER BY l.line)) AS in_groups
WHERE place > 1
"""


def compare_lines(db: Database) -> int:
    """Refuse the lines that contradict each other, and return how many lines are refused in all."""
    db.execute("ANALYZE import_lines")
    db.execute(_REFUSE_REALMS)
    db.execute(_REFUSE_SHARED.format(column="refresh_token", key="fingerprint"))
    db.execute(_REFUSE_SHARED.format(column="external_id", key="external_id"))
    db.execute("CREATE INDEX ON import_refusals (line)")
    db.execute(_FIND_FURTHER)
    db.execute("CREATE INDEX ON import_further (line)")
    db.execute("ANALYZE import_refusals")
    db.execute("ANALYZE import_further")
    return int(db.execute("SELECT count(DISTINCT line) AS n FROM import_refusals").one().n)


def refusals(db: Database, *, after: int, limit: int) -> list[tuple[int, str]]:
    """Return the refused lines behind a line, each with all its reasons, in the order of the file."""
    rows = db.execute(
        "SELECT line, string_agg(reason, '; ') AS reasons FROM import_refusals WHERE line > %(after)s"
        " GROUP BY line ORDER BY line LIMIT %(limit)s",
        {"after": after, "limit": limit},
    )
    return [(row.line, row.reasons) for row in rows]


_COUNT = """
SELECT CASE WHEN l.action = 'candidate' AND f.line IS NULL THEN l.action
            WHEN l.adds_name AND (l.action <> 'new' OR f.line IS NOT NULL) THEN 'named'
            WHEN l.action = 'candidate' THEN 'unchanged' ELSE l.action END AS action,
       count(*) AS n, count(*) FILTER (
           WHERE l.action = 'new' AND f.line IS NULL AND l.next_refresh_at <= now()) AS due_now
FROM import_lines l LEFT JOIN import_further f ON f.line = l.line
WHERE NOT EXISTS (SELECT FROM import_refusals r WHERE r.line = l.line)
GROUP BY 1
"""


def count(db: Database) -> dict[str, tuple[int, int]]:
    """Return action → how many lines come to it, and how many of these connections are due at once.

    `named` are the lines that only add an external id.
    """
    return {row.action: (row.n, row.due_now) for row in db.execute(_COUNT)}


_INSERT = """
INSERT INTO qbo.connections (id, app_id, label, realm_id, realm_hash, refresh_token, refresh_token_fingerprint,
                             known_fingerprint, access_token, token_obtained_at, access_expires_at,
                             refresh_expires_at, hard_expires_at, next_refresh_at, frozen, taken_over)
SELECT l.connection_id, l.app_id, l.label, l.realm_id, l.realm_hash, l.refresh_token, l.fingerprint, l.fingerprint,
       l.access_token, l.token_obtained_at, l.access_expires_at, l.refresh_expires_at, l.hard_expires_at,
       l.next_refresh_at, %(frozen)s, NOT %(frozen)s
FROM import_lines l
WHERE l.action = 'new' AND NOT EXISTS (SELECT FROM import_refusals r WHERE r.line = l.line)
  AND NOT EXISTS (SELECT FROM import_further f WHERE f.line = l.line)
"""
_NAME = """
INSERT INTO qbo.external_ids (external_id, connection_id)
SELECT l.external_id, COALESCE(f.connection_id, l.connection_id)
FROM import_lines l LEFT JOIN import_further f ON f.line = l.line
WHERE l.adds_name AND NOT EXISTS (SELECT FROM import_refusals r WHERE r.line = l.line)
"""
# The last word of whoever refreshes a connection that is frozen here and at rest: its token goes into the row at once.
# As a candidate, a refusal in passing would have the worker present the replaced one next, which costs a grant where
# reuse is punished. So that one becomes the previous token, which is asked about last, before a verdict.
_REPLACE = """
UPDATE qbo.connections c
SET refresh_token = l.refresh_token, refresh_token_fingerprint = l.fingerprint, known_fingerprint = l.fingerprint,
    previous_refresh_token = c.refresh_token, previous_refresh_token_fingerprint = c.refresh_token_fingerprint,
    access_token = COALESCE(l.access_token, c.access_token),
    access_expires_at = CASE WHEN l.access_token IS NULL THEN c.access_expires_at ELSE l.access_expires_at END,
    token_version = c.token_version + 1, token_obtained_at = l.token_obtained_at,
    refresh_expires_at = COALESCE(l.refresh_expires_at, c.refresh_expires_at),
    hard_expires_at = COALESCE(l.hard_expires_at, c.hard_expires_at),
    hard_expires_inferred = c.hard_expires_inferred AND l.hard_expires_at IS NULL, next_refresh_at = l.next_refresh_at
FROM import_lines l
WHERE c.id = l.connection_id AND c.grant_number = l.grant_number AND l.action = 'candidate'
  AND c.frozen AND c.status = 'active' AND c.lease_id IS NULL AND NOT c.in_doubt
  AND c.refresh_token_fingerprint IS DISTINCT FROM l.fingerprint
  AND (c.token_obtained_at IS NULL OR c.token_obtained_at < l.token_obtained_at)
  AND NOT EXISTS (SELECT FROM qbo.candidates x
                  WHERE x.connection_id = c.id AND x.grant_number = c.grant_number AND x.settled_at IS NULL)
  AND NOT EXISTS (SELECT FROM import_refusals r WHERE r.line = l.line)
  AND NOT EXISTS (SELECT FROM import_further f WHERE f.line = l.line)
"""
# As `candidates.add_candidate`, for a set. The row is looked at again: it may have moved on since the line was read.
_OFFER = """
WITH added AS (
    INSERT INTO qbo.candidates (connection_id, grant_number, base_version, source, refresh_token, fingerprint)
    SELECT c.id, c.grant_number, c.token_version, 'import', l.refresh_token, l.fingerprint
    FROM import_lines l JOIN qbo.connections c ON c.id = l.connection_id AND c.grant_number = l.grant_number
    WHERE l.action = 'candidate' AND c.status <> 'disconnected'
      AND c.refresh_token_fingerprint IS DISTINCT FROM l.fingerprint
      AND (c.token_obtained_at IS NULL OR c.token_obtained_at < l.token_obtained_at)
      AND NOT EXISTS (SELECT FROM import_refusals r WHERE r.line = l.line)
      AND NOT EXISTS (SELECT FROM import_further f WHERE f.line = l.line)
    ON CONFLICT (connection_id, grant_number, fingerprint) DO NOTHING
    RETURNING connection_id, fingerprint
)
UPDATE qbo.connections c SET next_refresh_at = LEAST(c.next_refresh_at, now())
FROM added WHERE c.id = added.connection_id
-- A grant that we refresh ourselves got a newer token, and from no attempt of ours: somebody else refreshes it, too.
RETURNING CASE WHEN c.last_refreshed_at IS NOT NULL AND NOT c.frozen AND NOT EXISTS (
    SELECT FROM qbo.refresh_attempts r WHERE r.connection_id = c.id AND r.fingerprint_after = added.fingerprint)
    THEN c.id END AS written_elsewhere
"""


def write(db: Database, *, frozen: bool) -> int:
    """Write the lines that stand, and return how many newer tokens were taken, into rows or as candidates."""
    db.execute(_INSERT, {"frozen": frozen})
    db.execute(_NAME)
    # Last, because they lock rows that workers want.
    replaced = db.execute(_REPLACE).rowcount
    offered = db.execute(_OFFER).all()
    for row in offered:
        if row.written_elsewhere is not None:
            writers.report(db, row.written_elsewhere, seen="import")
    return replaced + len(offered)
