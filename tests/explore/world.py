"""One world: a clock, a database, a Redis and a provider. It can be put back to what it was, as a search needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.explore.tables import START, Row, Tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.explore.provider import Provider
    from worker.attempt import Received

DAY = timedelta(days=1)
# A failover may lose so many commits, and none that is older than a day: the escrow keeps what was saved for 25 h. A
# restored backup that is older has tokens that are spent, and verdicts on them are right.
LOSABLE = 2
LOSABLE_FOR_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Shelf:
    """One key of the escrow: copies, oldest first, and until when (in seconds of the world)."""

    copies: tuple[Received, ...]
    until: float


@dataclass(frozen=True, slots=True)
class Moment:
    """All that a world is at one moment."""

    seconds: float
    tables: Tables
    before: tuple[tuple[float, Tables], ...]
    timeline: int
    shelves: Mapping[tuple[int, int, int], Shelf]
    provider: bytes


class World:
    """What attempts and faults act on. Time passes only when it is told to.

    Attributes:
        before: The database before its last commits, and when each was made, the latest last.
        timeline: The server's own.
        witness_id: A connection that others refresh all the time; None if there is none.
    """

    def __init__(self, provider: Provider, *, witness_id: int | None = None) -> None:
        self.seconds = 0.0
        self.tables = Tables()
        self.before: tuple[tuple[float, Tables], ...] = ()
        self.timeline = 1
        self.shelves: Mapping[tuple[int, int, int], Shelf] = {}
        self.provider = provider
        self.witness_id = witness_id

    @property
    def now(self) -> datetime:
        """The database's clock."""
        return START + timedelta(seconds=self.seconds)

    def boottime(self) -> float:
        """Return the workers' clock."""
        return self.seconds

    def commit(self, tables: Tables) -> None:
        """Make these the tables."""
        self.before = (*self.before, (self.seconds, self.tables))[-LOSABLE:]
        self.tables = tables

    def commit_row(self, row: Row, **others: object) -> None:
        """Write one row, and what else is given, in one commit."""
        rows = {**self.tables.rows, row.id: row}
        self.commit(replace(self.tables, rows=rows, **others))  # type: ignore[arg-type]  # fields of Tables

    def advance(self, time: timedelta) -> None:
        """Let time pass. Beat sees first what has become of the database; open calls are over, the witness works."""
        self.recognise()
        self.provider.let_pass()
        self.seconds += time.total_seconds()
        self.provider.seconds = self.seconds
        self.before = tuple(each for each in self.before if each[0] > self.seconds - LOSABLE_FOR_S)
        if self.witness_id is not None:
            self.refresh_witness()

    def refresh_witness(self) -> None:
        """Let the other connection have been refreshed just now. It is no commit of ours that could be lost."""
        assert self.witness_id is not None
        row = replace(
            self.tables.rows[self.witness_id],
            attempt_began_at=self.now,
            last_refreshed_at=self.now,
            next_refresh_at=self.now + DAY,
        )
        self.tables = replace(self.tables, rows={**self.tables.rows, row.id: row})

    def fail_over(self, lost: int) -> None:
        """Let another server take over that never got the last commits. It takes a second: what began is older."""
        self.timeline += 1
        self.seconds += 1.0
        self.provider.seconds = self.seconds
        if lost:
            self.tables = self.before[-lost][1]
            self.before = self.before[:-lost]
            if self.witness_id is not None:
                self.refresh_witness()

    def recognise(self) -> None:
        """Do what `worker.store.control.recognise` does for a timeline."""
        control = self.tables.control
        if control.timeline != self.timeline:
            new = replace(control, timeline=self.timeline, epoch_since=self.now)
            self.commit(replace(self.tables, control=new))

    def flush(self) -> None:
        """Lose all of Redis."""
        self.shelves = {}

    def save(self) -> Moment:
        """Return all that this world is now."""
        return Moment(self.seconds, self.tables, self.before, self.timeline, self.shelves, self.provider.save())

    def restore(self, moment: Moment) -> None:
        """Be again what it was."""
        self.seconds, self.tables, self.before = moment.seconds, moment.tables, moment.before
        self.timeline, self.shelves = moment.timeline, moment.shelves
        self.provider.restore(moment.provider)
        self.provider.seconds = moment.seconds
