"""Bringing forward what is planned for later, no faster than the sweeps go: a backlog of hours would count as late."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

from worker.store.dispatch import IS_FREE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.database import Database

_LARGEST_BATCH = 1000
# What rests or waits for an answer is left as it is. By `next_refresh_at` and not `due_at`: what was due and only rests
# until its `not_before` cannot come any sooner.
_IS_WAITING = f"""
status = 'active' AND next_refresh_at > now() AND NOT frozen AND {IS_FREE}
AND (%(label)s::text IS NULL OR label = %(label)s) AND (NOT %(never)s OR last_refreshed_at IS NULL)
"""
_WAITING = f"SELECT id FROM qbo.connections WHERE {_IS_WAITING} ORDER BY next_refresh_at, id"  # noqa: S608  # constants
_OTHERS = f"""
SELECT ceil(extract(epoch FROM GREATEST(due_at, now()) - now()) / 60)::int AS minute, count(*) AS number
FROM qbo.connections
WHERE due_at < now() + interval '2 days' AND NOT frozen AND ({_IS_WAITING}) IS NOT TRUE GROUP BY 1
"""  # noqa: S608  # composed of constants
_BRING = f"""
UPDATE qbo.connections SET next_refresh_at = LEAST(next_refresh_at, now() + %(ahead)s::interval)
WHERE id = ANY (ARRAY(
    SELECT id FROM qbo.connections WHERE id = ANY (%(ids)s::bigint[]) AND {_IS_WAITING} FOR UPDATE SKIP LOCKED))
"""  # noqa: S608  # composed of constants


@dataclass(frozen=True, slots=True)
class Waiting:
    """Which connections, of those that are planned for later; what is None or False does not count."""

    label: str | None = None
    never_refreshed: bool = False


@dataclass(frozen=True, slots=True)
class Wave:
    """Connections that the sweeps can refresh so many minutes from now, beside what is due anyway."""

    minute: int
    ids: Sequence[int]


def plan(db: Database, which: Waiting, *, per_minute: int) -> Sequence[Wave]:
    """Return when they can be refreshed, in the order in which they are due; empty if none is planned for later.

    Planned again, what was brought forward keeps its place: what is due by then fills the minutes before it.

    Args:
        db: The database.
        which: Of those that are planned for later.
        per_minute: What the sweeps publish.
    """
    ids = [row.id for row in db.execute(_WAITING, _values(which))]
    others = {row.minute: row.number for row in db.execute(_OTHERS, _values(which))}
    waves, planned = [], 0
    for minute, free in enumerate(_free(others, per_minute)):
        if planned >= len(ids):
            break
        if free:
            waves.append(Wave(minute, ids[planned : planned + free]))
            planned += free
    return waves


def _free(others: Mapping[int, int], per_minute: int) -> Iterator[int]:
    """Yield, for each minute from now on, how many more the sweeps can refresh; what is left over goes on."""
    due = 0
    for minute in count():
        due += others.get(minute, 0)
        yield max(0, per_minute - due)
        due = max(0, due - per_minute)


def bring(db: Database, which: Waiting, waves: Sequence[Wave], *, progress: Callable[[int], None]) -> int:
    """Make them due as planned, none later than it was, and return how many there were.

    Args:
        db: The database.
        which: As they were planned: what does not wait any more is left as it is.
        waves: The plan.
        progress: Told after each batch how many have been brought forward.
    """
    done = 0
    for wave in waves:
        for start in range(0, len(wave.ids), _LARGEST_BATCH):
            ids = list(wave.ids[start : start + _LARGEST_BATCH])
            values = _values(which) | {"ahead": timedelta(minutes=wave.minute), "ids": ids}
            done += db.execute(_BRING, values).rowcount
            progress(done)
    return done


def _values(which: Waiting) -> dict[str, object]:
    return {"label": which.label, "never": which.never_refreshed}
