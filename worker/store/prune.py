"""Deleting what is old, a bounded piece at a time: each statement is a transaction and locks only what it deletes.

The ledger has one index that helps, (connection_id, began_at). So it is walked connection by connection, by an index
probe each, whether the connection still exists or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from worker.database import Database

# What is old is counted back from the connection's last attempt: the story of one that was given up long ago stays.
_OLD_ATTEMPTS = """
SELECT r.attempt_id
FROM unnest(%(ids)s::bigint[]) AS w (id) LEFT JOIN qbo.connections c ON c.id = w.id
CROSS JOIN LATERAL (
    SELECT a.attempt_id FROM qbo.refresh_attempts a
    WHERE a.connection_id = w.id AND a.began_at < LEAST(now(), c.attempt_began_at) - %(keep)s::interval
    ORDER BY a.began_at LIMIT %(limit)s
) AS r LIMIT %(limit)s
"""
_OLD_CANDIDATES = """
SELECT id FROM qbo.candidates WHERE id > %(after)s AND COALESCE(settled_at, tried_at) < now() - %(keep)s::interval
ORDER BY id LIMIT %(limit)s
"""
_OLD_EVENTS = """
SELECT id FROM qbo.outbox
WHERE id > %(after)s AND created_at < now() - %(keep)s::interval AND (delivered_at IS NOT NULL OR NOT %(delivers)s)
ORDER BY id LIMIT %(limit)s
"""
_NEXT_CONNECTIONS = """
WITH RECURSIVE found (id) AS (
    (SELECT connection_id FROM qbo.refresh_attempts WHERE connection_id > %(after)s ORDER BY connection_id LIMIT 1)
    UNION ALL
    SELECT (SELECT a.connection_id FROM qbo.refresh_attempts a WHERE a.connection_id > found.id
            ORDER BY a.connection_id LIMIT 1)
    FROM found WHERE found.id IS NOT NULL
)
SELECT id FROM found WHERE id IS NOT NULL LIMIT %(limit)s
"""


def connections_in_ledger(db: Database, *, after: int, limit: int) -> list[int]:
    """Return the next connection ids that the ledger knows, those of deleted connections too."""
    return [row.id for row in db.execute(_NEXT_CONNECTIONS, {"after": after, "limit": limit})]


def count_attempts(db: Database, connection_ids: list[int], *, keep: timedelta) -> int:
    """Return how many attempts of these connections are older than `keep` before their last one."""
    old = _OLD_ATTEMPTS.replace("LIMIT %(limit)s", "")
    statement = f"SELECT count(*) AS n FROM ({old}) AS old"  # noqa: S608  # a constant
    return int(db.execute(statement, {"ids": connection_ids, "keep": keep}).one().n)


def delete_attempts(db: Database, connection_ids: list[int], *, keep: timedelta, limit: int) -> int:
    """Delete up to `limit` of them and return how many went."""
    statement = f"DELETE FROM qbo.refresh_attempts WHERE attempt_id IN ({_OLD_ATTEMPTS})"  # noqa: S608  # a constant
    return db.execute(statement, {"ids": connection_ids, "keep": keep, "limit": limit}).rowcount


def old_candidates(db: Database, *, after: int, keep: timedelta, limit: int) -> list[int]:
    """Return candidates that Intuit answered longer ago than `keep`; those that are untried never."""
    return [row.id for row in db.execute(_OLD_CANDIDATES, {"after": after, "keep": keep, "limit": limit})]


def delete_candidates(db: Database, ids: list[int]) -> int:
    """Delete these candidates."""
    return db.execute("DELETE FROM qbo.candidates WHERE id = ANY (%(ids)s::bigint[])", {"ids": ids}).rowcount


def old_events(db: Database, *, after: int, keep: timedelta, limit: int, delivers: bool) -> list[int]:
    """Return events older than `keep`; those that wait for delivery only if there is none."""
    rows = db.execute(_OLD_EVENTS, {"after": after, "keep": keep, "limit": limit, "delivers": delivers})
    return [row.id for row in rows]


def delete_events(db: Database, ids: list[int], *, delivers: bool) -> int:
    """Delete these events, but none that somebody has asked meanwhile to have sent again."""
    statement = (
        "DELETE FROM qbo.outbox WHERE id = ANY (%(ids)s::bigint[]) AND (delivered_at IS NOT NULL OR NOT %(delivers)s)"
    )
    return db.execute(statement, {"ids": ids, "delivers": delivers}).rowcount
