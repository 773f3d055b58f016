"""The outbox from the other end: what waits for delivery, what has been delivered, and what there is to see.

One deliverer at a time, by a lease in a row of its own: what it takes and marks are rows of the outbox alone, so that
no refresh ever waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from worker.database import Database


@dataclass(frozen=True, slots=True)
class Stored:
    """One event with the names that its connection has now.

    Attributes:
        delivered_at: When it was in the host's broker, or left to those who poll; None while it waits.
        delivered_to: The host's task; None if it was left to those who poll.
    """

    id: int
    type: str
    connection_id: int | None
    external_ids: tuple[str, ...]
    label: str | None
    sequence: int | None
    created_at: datetime
    payload: Mapping[str, Any]
    delivered_at: datetime | None
    delivered_to: str | None


# A deliverer that is late by the database's clock has lost its lease; one far in the future is a clock stepped back.
_BEGIN = """
INSERT INTO qbo.event_delivery AS d (lease_id, leased_until)
SELECT %(lease)s, now() + %(lasts)s::interval WHERE EXISTS (SELECT FROM qbo.outbox WHERE delivered_at IS NULL)
ON CONFLICT (one_row) DO UPDATE SET lease_id = EXCLUDED.lease_id, leased_until = EXCLUDED.leased_until
WHERE (d.leased_until IS NULL OR d.leased_until <= now() OR d.leased_until > now() + 2 * %(lasts)s::interval)
  AND (d.not_before IS NULL OR d.not_before <= now() OR d.not_before > now() + 2 * %(longest)s::interval)
RETURNING d.failures
"""


def begin_delivery(db: Database, *, lease_id: UUID, lasts: timedelta, longest_pause: timedelta) -> int | None:
    """Become the deliverer; return the failures in a row before, or None: nothing waits, another delivers, a pause."""
    row = db.execute(_BEGIN, {"lease": lease_id, "lasts": lasts, "longest": longest_pause}).one_or_none()
    return None if row is None else int(row.failures)


def end_delivery(db: Database, *, lease_id: UUID, failures: int, pause: timedelta | None) -> None:
    """Give the lease back, if it still is ours, and have everybody wait for so long; None for not at all."""
    db.execute(
        "UPDATE qbo.event_delivery SET lease_id = NULL, leased_until = NULL, failures = %(failures)s,"
        " not_before = now() + %(pause)s::interval WHERE lease_id = %(lease)s",
        {"lease": lease_id, "failures": failures, "pause": pause},
    )


_EVENTS = """
SELECT o.id, o.type, o.connection_id, o.sequence, o.created_at, o.payload, o.delivered_at, o.delivered_to, c.label,
       ARRAY(SELECT x.external_id FROM qbo.external_ids x WHERE x.connection_id = o.connection_id ORDER BY 1)
           AS external_ids
FROM qbo.outbox o LEFT JOIN qbo.connections c ON c.id = o.connection_id
WHERE {where} ORDER BY o.id {direction} LIMIT %(limit)s
"""
# The order of ids is that of `sequence` within a connection: both were taken under the lock of its row.
_WAITING = _EVENTS.format(where="o.delivered_at IS NULL", direction="")


def waiting(db: Database, *, limit: int) -> Sequence[Stored]:
    """Return the events that wait for delivery, the oldest first."""
    return [_stored(row) for row in db.execute(_WAITING, {"limit": limit})]


def mark_delivered(db: Database, event_ids: Sequence[int], *, task: str) -> None:
    """Note that these are in the host's broker."""
    db.execute(
        "UPDATE qbo.outbox SET delivered_at = now(), delivered_to = %(task)s WHERE id = ANY (%(ids)s::bigint[])",
        {"ids": list(event_ids), "task": task},
    )


# Where a deliverer has ever worked, a worker whose EVENT_TASK somebody forgot must not take its events away.
_LEAVE = """
UPDATE qbo.outbox SET delivered_at = now()
WHERE id IN (SELECT id FROM qbo.outbox WHERE delivered_at IS NULL AND created_at <= now() - %(after)s::interval
             ORDER BY id LIMIT %(limit)s)
  AND delivered_at IS NULL AND NOT EXISTS (SELECT FROM qbo.event_delivery)
"""


def leave_to_pollers(db: Database, *, after: timedelta, limit: int) -> int:
    """Mark events that nobody delivers, once they are so old, as left to those who poll; return how many."""
    return db.execute(_LEAVE, {"after": after, "limit": limit}).rowcount


def send_again(db: Database, event_ids: Sequence[int]) -> list[int]:
    """Have these events delivered again, and return the ids of those that there are."""
    rows = db.execute(
        "UPDATE qbo.outbox SET delivered_at = NULL, delivered_to = NULL, resent_at = now()"
        " WHERE id = ANY (%(ids)s::bigint[]) RETURNING id",
        {"ids": list(event_ids)},
    )
    return sorted(row.id for row in rows)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events to read; None and False mean any."""

    after: int | None = None
    connection_id: int | None = None
    type: str | None = None
    undelivered: bool = False


def _where(wanted: Wanted) -> str:
    conditions = ["true"]
    if wanted.after is not None:
        conditions.append("o.id > %(after)s")
    if wanted.connection_id is not None:
        conditions.append("o.connection_id = %(connection)s")
    if wanted.type is not None:
        conditions.append("o.type = %(type)s")
    if wanted.undelivered:
        conditions.append("o.delivered_at IS NULL")
    return " AND ".join(conditions)


def read(db: Database, wanted: Wanted, *, limit: int, newest: bool = False) -> list[Stored]:
    """Return events, the oldest first: the first `limit` of them, or the last."""
    statement = _EVENTS.format(where=_where(wanted), direction="DESC" if newest else "")
    values = {
        "after": wanted.after,
        "connection": wanted.connection_id,
        "type": wanted.type,
        "limit": limit,
    }
    found = [_stored(row) for row in db.execute(statement, values)]
    return found[::-1] if newest else found


_BATCH = 500


def read_all(db: Database, wanted: Wanted) -> Iterator[Stored]:
    """Yield events, the oldest first, in batches."""
    after = wanted.after or 0
    while found := read(db, Wanted(after, wanted.connection_id, wanted.type, wanted.undelivered), limit=_BATCH):
        yield from found
        after = found[-1].id


def _stored(row: Any) -> Stored:
    return Stored(
        row.id,
        row.type,
        row.connection_id,
        tuple(row.external_ids),
        row.label,
        row.sequence,
        row.created_at,
        row.payload,
        row.delivered_at,
        row.delivered_to,
    )
