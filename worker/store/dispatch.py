"""What the sweep asks: which connections are due, most urgent first. Rows that cannot go are not in its way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from worker.policy import NEAR_EXPIRY
from worker.store.apps import IS_PAUSED_FOR_EVER, IS_THROTTLED
from worker.store.blobs import IS_BLOB, KEY_ID_TEXT
from worker.store.claims import IS_USABLE, key_arrays

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import timedelta

    from worker.attempt import Keys
    from worker.database import Database

# Half a period: a second beat, or a backlog of sweep messages, starts nothing; a beat that is a little early does. Each
# app for itself: a deployment with another app's keys has a beat of its own.
_BEGIN = """
UPDATE qbo.apps SET swept_at = now()
WHERE id = ANY (%(key_apps)s::int[]) AND NOT EXISTS (SELECT FROM qbo.control WHERE frozen)
  AND (swept_at IS NULL OR swept_at <= now() - %(half)s::interval OR swept_at > now())
"""


def begin_sweep(db: Database, keys: tuple[Keys, ...], *, every: timedelta) -> bool:
    """Start a sweep of these apps; False if another began within half a period, or everything is frozen."""
    return db.execute(_BEGIN, {"half": every / 2, **key_arrays(keys)}).rowcount > 0


def running_for(db: Database) -> timedelta | None:
    """Return how long ago the fleet was let go again, after a thaw or in a new epoch; None if it always ran."""
    row = db.execute("SELECT now() - GREATEST(thawed_at, epoch_since) AS since FROM qbo.control").one_or_none()
    since: timedelta | None = row.since if row else None
    return since


# What nothing schedules: the database's clock was stepped back since, and these would wait until it has caught up.
_IS_FAR_OFF = "app_id = ANY (%(key_apps)s::int[]) AND NOT frozen AND due_at > now() + %(horizon)s::interval"
_FAR_OFF = f"SELECT id FROM qbo.connections WHERE {_IS_FAR_OFF} ORDER BY due_at, id LIMIT 1000"  # noqa: S608  # constants
_RESTS_UNTIL = "CASE WHEN not_before > now() + interval '1 hour' THEN now() + interval '1 hour' ELSE not_before END"
# By an array: a join may ask again for each row, and skips what it has then changed itself, so that more than those go.
_LET_GO = f"""
UPDATE qbo.connections SET next_refresh_at = now(), queued_until = NULL, not_before = {_RESTS_UNTIL}
WHERE id = ANY (ARRAY({_FAR_OFF} FOR UPDATE SKIP LOCKED))
"""  # noqa: S608  # composed of constants
_END_PAUSES = f"""
UPDATE qbo.apps a SET throttled_until = NULL WHERE id = ANY (%(key_apps)s::int[]) AND {IS_PAUSED_FOR_EVER.format("a")}
"""  # noqa: S608  # composed of constants


def let_far_off_go(db: Database, keys: tuple[Keys, ...], *, horizon: timedelta) -> int:
    """Make due what waits for longer than anything is put off, a thousand at a time, and return how many."""
    db.execute(_END_PAUSES, key_arrays(keys))
    return db.execute(_LET_GO, {"horizon": horizon, **key_arrays(keys)}).rowcount


# The connections as a sweep finds them once it has let go what is far off: for who foretells it and changes nothing.
_THE_SAME = "app_id, status, frozen, in_doubt, lease_id, leased_until, refresh_expires_at, last_outcome, last_reason"
AS_LET_GO = f"""
SELECT {_THE_SAME}, next_refresh_at, due_at, queued_until
FROM qbo.connections WHERE ({_IS_FAR_OFF} AND id IN ({_FAR_OFF})) IS NOT TRUE
UNION ALL
SELECT {_THE_SAME}, now(), GREATEST(now(), {_RESTS_UNTIL}), NULL
FROM qbo.connections WHERE id IN ({_FAR_OFF})
"""  # noqa: S608  # composed of constants

Due = tuple[datetime, int]
"""Where a row stands in the order of a sweep: when it was due, and its id."""


@dataclass(frozen=True, slots=True)
class Gates:
    """Which of the apps whose secrets are here may go now.

    Attributes:
        usable: Those that go as a whole: one of their secrets here is not blocked, and they are not throttled.
        probing: Those that are blocked, but may let one connection through as a probe.
        throttled: Those that pause as a whole.
    """

    usable: tuple[int, ...] = ()
    probing: tuple[int, ...] = ()
    throttled: tuple[int, ...] = ()


_GATES = f"""
SELECT a.id, COALESCE({IS_THROTTLED.format("a")}, false) AS throttled, {IS_USABLE.format("a.id")} AS usable,
       EXISTS (SELECT FROM qbo.app_blocks b
               WHERE b.app_id = a.id AND b.secret_hash = ANY (%(key_hashes)s::bytea[])
                 AND b.blocked_at IS NOT NULL AND b.probe_at <= now()) AS probe
FROM qbo.apps a
WHERE a.id = ANY (%(key_apps)s::int[]) ORDER BY a.id
"""  # noqa: S608  # composed of constants


def gates(db: Database, keys: tuple[Keys, ...]) -> Gates:
    """Return which apps may go, and those that are blocked but may let one connection through as a probe."""
    rows = db.execute(_GATES, key_arrays(keys)).all()
    return Gates(
        usable=tuple(row.id for row in rows if row.usable and not row.throttled),
        probing=tuple(row.id for row in rows if row.probe and not row.usable and not row.throttled),
        throttled=tuple(row.id for row in rows if row.throttled),
    )


IS_FREE = "(lease_id IS NULL OR leased_until <= now())"
IS_UNMARKED = "(queued_until IS NULL OR queued_until <= now())"
# Rows that another dispatcher has locked or marked, and those under a lease, are passed over. By an array and not a
# join, for which PostgreSQL may read the whole table, with all the rows that cannot go.
_MARK = f"""
WITH picked AS (
    SELECT id FROM qbo.connections
    WHERE app_id = %(app)s AND due_at <= now() AND NOT frozen AND {{which}} AND {IS_FREE}
    ORDER BY {{order}} LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE qbo.connections SET queued_until = now() + %(mark)s::interval
    WHERE id = ANY (ARRAY(SELECT id FROM picked)) RETURNING id, due_at, refresh_expires_at
)
SELECT id, GREATEST(due_at, '1970-01-01') AS due_at FROM marked ORDER BY {{order}}
"""  # noqa: S608  # composed of constants
_MARK_URGENT = _MARK.format(
    which=f"{IS_UNMARKED} AND refresh_expires_at <= now() + %(near)s::interval", order="refresh_expires_at"
)
# The cursor keeps a sweep of any size from walking over its own marks again with each batch.
_MARK_ORDINARY = _MARK.format(
    which=f"{IS_UNMARKED} AND (due_at, id) > (%(after)s::timestamptz, %(after_id)s::bigint)", order="due_at, id"
)
# Of a blocked app one goes, marked or not: what was published before the block was met is marked.
_MARK_PROBE = _MARK.format(which="true", order="due_at, id")


def mark_probe(db: Database, *, app_id: int, mark: timedelta) -> list[int]:
    """Mark the most overdue connection of a blocked app, and return its id, if there is one."""
    return [row.id for row in db.execute(_MARK_PROBE, {"app": app_id, "limit": 1, "mark": mark})]


def mark_urgent(db: Database, *, app_id: int, limit: int, mark: timedelta) -> list[int]:
    """Mark up to `limit` due connections whose grants die soon, the soonest first; return their ids."""
    rows = db.execute(_MARK_URGENT, {"app": app_id, "near": NEAR_EXPIRY, "limit": limit, "mark": mark})
    return [row.id for row in rows]


def mark_due(
    db: Database, *, app_id: int, limit: int, mark: timedelta, after: Due | None = None
) -> tuple[list[int], Due | None]:
    """Mark up to `limit` due connections of an app as queued, the most overdue first.

    Args:
        db: The database.
        app_id: One of `Gates.usable`.
        limit: At most so many.
        mark: How long the mark holds: a message that is lost is published again after it.
        after: Where the last batch of this sweep ended; None for the first.

    Returns:
        Their ids, and where this batch ended; None if nothing was left.
    """
    due_at, last_id = after or ("-infinity", 0)
    rows = db.execute(
        _MARK_ORDINARY, {"app": app_id, "after": due_at, "after_id": last_id, "limit": limit, "mark": mark}
    ).all()
    return [row.id for row in rows], max(((row.due_at, row.id) for row in rows), default=None)


_LET_READABLE_GO = f"""
UPDATE qbo.connections SET not_before = NULL, queued_until = NULL
WHERE last_outcome = 'unreadable' AND not_before > now() AND lease_id IS NULL
  AND {IS_BLOB.format("refresh_token")} AND {KEY_ID_TEXT.format("refresh_token")} = ANY (%(key_ids)s::text[])
"""  # noqa: S608  # composed of constants


def let_readable_go(db: Database, key_ids: Collection[str]) -> int:
    """Make due now what did not open when it was last tried and is sealed with one of these keys; return how many.

    What does not open all the same waits another hour: nothing was sent, and nobody is told again.
    """
    return db.execute(_LET_READABLE_GO, {"key_ids": list(key_ids)}).rowcount
