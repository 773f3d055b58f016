"""Minutes of a fleet under one worker and a beat, without waiting: sweep, take what was published, let time pass."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.attempt import Trigger
from worker.dispatch import Sweep, dispatch_due
from worker.refresh import refresh

if TYPE_CHECKING:
    from tests.support.fleet import Fleet
    from worker.refresh import Result
    from worker.runtime import Runtime

MINUTE = timedelta(minutes=1)
# A message is taken a moment after its sweep began, so that what is put off for a minute then is not due at the next.
QUEUED = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Minutes:
    """One worker's sweeps, once a minute, at most so many connections each."""

    fleet: Fleet
    worker: Runtime
    per_minute: int = 1000

    def one(self) -> list[Result]:
        """Let one pass; return what became of the connections that its sweep has published, in that order."""
        here, published = self.worker, list[int]()
        mark, empty = 10 * MINUTE, lambda: 0
        dispatch_due(
            Sweep(
                here.db,
                here.keys,
                self.per_minute,
                self.per_minute,
                MINUTE,
                here.refresher.pace,
                mark,
                empty,
                published.extend,
            )
        )
        self.fleet.let_pass(QUEUED)
        results = [refresh(here.refresher, each, trigger=Trigger.SWEEP) for each in published]
        self.fleet.let_pass(MINUTE - QUEUED)
        return results
