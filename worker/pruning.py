"""Deletes what nobody needs any more: old attempts, tried candidates, delivered events. In small transactions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from worker.store import prune as old

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from worker.database import Database

BATCH = 1000  # rows in one transaction
_CONNECTIONS = 200  # looked at together

DEFAULTS: Final[Mapping[str, int]] = {"ledger": 120, "candidates": 35, "events": 90}
"""How many days each is kept."""
LEAST: Final[Mapping[str, int]] = {"ledger": 100, "candidates": 30, "events": 7}
"""A grant lives 100 days unused, and `explain` tells its whole story; the escrow brings tokens up again for 30."""


@dataclass(slots=True)
class Pruned:
    """How many rows of each have gone, or would."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DEFAULTS, 0))


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is pruned.

    Attributes:
        days: How long the ledger, candidates and events are kept.
        delivers: EVENT_TASK is set: events that wait for delivery are kept, however old.
        dry_run: Count, delete nothing.
        progress: Told after each transaction.
    """

    db: Database
    days: Mapping[str, int]
    delivers: bool
    dry_run: bool
    progress: Callable[[Pruned], None]


def prune(work: Pruning) -> Pruned:
    """Delete it all, in the memory of one batch, however much it is."""
    done = Pruned()
    for name, pieces in (("ledger", _attempts(work)), ("candidates", _candidates(work)), ("events", _events(work))):
        for rows in pieces:
            done.rows[name] += rows
            work.progress(done)
    return done


def _keep(work: Pruning, name: str) -> timedelta:
    return timedelta(days=work.days[name])


def _attempts(work: Pruning) -> Iterator[int]:
    after, keep = 0, _keep(work, "ledger")
    while ids := old.connections_in_ledger(work.db, after=after, limit=_CONNECTIONS):
        if work.dry_run:
            yield old.count_attempts(work.db, ids, keep=keep)
        else:
            deleted = BATCH
            while deleted == BATCH:
                deleted = old.delete_attempts(work.db, ids, keep=keep, limit=BATCH)
                yield deleted
        after = ids[-1]


def _candidates(work: Pruning) -> Iterator[int]:
    after, keep = 0, _keep(work, "candidates")
    while ids := old.old_candidates(work.db, after=after, keep=keep, limit=BATCH):
        yield len(ids) if work.dry_run else old.delete_candidates(work.db, ids)
        after = ids[-1]


def _events(work: Pruning) -> Iterator[int]:
    after, keep, delivers = 0, _keep(work, "events"), work.delivers
    while ids := old.old_events(work.db, after=after, keep=keep, limit=BATCH, delivers=delivers):
        yield len(ids) if work.dry_run else old.delete_events(work.db, ids, delivers=delivers)
        after = ids[-1]
