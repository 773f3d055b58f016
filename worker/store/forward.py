"""Bringing forward what is planned for later, no faster than the sweeps go: a backlog of hours would count as late."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.database import Database

_LARGEST_BATCH = 1000
# What rests or waits for an answer is left as it is, and `not_before` holds for the others too: it is part of `due_at`.
_WAITING = """
    FROM qbo.connections c
    WHERE c.status = 'active' AND c.due_at > now() AND NOT c.frozen AND (c.lease_id IS NULL OR c.leased_until <= now())
      AND (%(label)s::text IS NULL OR c.label = %(label)s) AND (NOT %(never)s OR c.last_refreshed_at IS NULL)
"""
_BRING = f"""
UPDATE qbo.connections SET next_refresh_at = LEAST(next_refresh_at, now() + %(ahead)s::interval)
WHERE id = ANY (ARRAY(SELECT c.id {_WAITING} AND c.id > %(after)s ORDER BY c.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
RETURNING id
"""  # noqa: S608  # composed of constants


@dataclass(frozen=True, slots=True)
class Waiting:
    """Which connections, of those that are planned for later; what is None or False does not count."""

    label: str | None = None
    never_refreshed: bool = False


def _values(which: Waiting) -> dict[str, str | bool | None]:
    return {"label": which.label, "never": which.never_refreshed}


def count(db: Database, which: Waiting) -> int:
    """Return how many there are."""
    return int(db.execute(f"SELECT count(*) AS n {_WAITING}", _values(which)).one().n)  # constants


def bring(db: Database, which: Waiting, *, per_minute: int, progress: Callable[[int], None]) -> int:
    """Make them due, so many in each minute from now on and none later than it was, and return how many there were.

    Args:
        db: The database.
        which: Of those that are planned for later.
        per_minute: What the sweeps publish.
        progress: Told after each batch how many have been brought forward.
    """
    limit, after, done = min(per_minute, _LARGEST_BATCH), 0, 0
    while True:
        ahead = timedelta(minutes=done / per_minute)
        values = _values(which) | {"ahead": ahead, "after": after, "limit": limit}
        ids = [row.id for row in db.execute(_BRING, values)]
        if not ids:
            return done
        after = max(ids)
        done += len(ids)
        progress(done)
