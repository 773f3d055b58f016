"""One app's deployment in a soak: it sweeps, refreshes what was published, and goes on to the next hour."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from tests.soak.moments import SessionClock
from tests.soak.plan import DAY, STEP
from tests.soak.provider import Intuit, Weather
from worker import runtime
from worker.attempt import Trigger
from worker.dispatch import Sweep, dispatch_due
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from tests.soak.plan import Life, Plan
    from tests.soak.provider import Provider
    from worker.refresh import Result
    from worker.runtime import Runtime
    from worker.settings import Settings

THREADS = 2


class OutOfTime(Exception):
    """The soak was to be over by now."""


@dataclass(frozen=True, slots=True)
class Share:
    """One provider's part of a soak, as its process is given it.

    Attributes:
        settings: With the keys of its app alone.
        lives: Connection id → realm id and what is planned for it.
        ends_at: When to give up, by the machine's monotonic clock.
    """

    settings: Settings
    provider: Provider
    lives: dict[int, tuple[str, Life]]
    plan: Plan
    starts: datetime
    ends_at: float | None


@dataclass(slots=True)
class Lived:
    """What became of a share; see `tests.soak.run.Soaked`."""

    provider: Provider
    refreshed: dict[int, int] = field(default_factory=dict)
    longest: dict[int, timedelta] = field(default_factory=dict)
    seen: dict[int, timedelta] = field(default_factory=dict)
    took_s: float = 0.0

    def note(self, result: Result, at: timedelta) -> None:
        """Note a refresh."""
        if result.rotated is None:
            return
        number = result.connection_id
        self.refreshed[at // STEP] = self.refreshed.get(at // STEP, 0) + 1
        gap = at - self.seen.get(number, timedelta(0))
        self.longest[number] = max(self.longest.get(number, timedelta(0)), gap)
        self.seen[number] = at


def begin() -> None:
    """Prepare a process that shares are lived in; it ends with its parent, however that went."""
    logging.disable(logging.CRITICAL)  # an outage of weeks is thousands of warnings
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # other threads may be waiting for a database that has ended, too


def live(share: Share) -> Lived:
    """Live through a share's days.

    Raises:
        OutOfTime: They take too long.
    """
    here = runtime.build(share.settings)
    # The answers come without HTTP; a jitter that is always the same keeps two runs of a seed alike.
    refresher = replace(here.refresher, intuit=Intuit(share.provider), jitter=lambda: 0.5)
    clock = SessionClock(here.db, share.starts)
    lived = Lived(share.provider)
    ids: list[int] = []
    sweep = _sweep(here, ids.extend)

    def one(connection_id: int) -> Result:
        clock.tell()
        return refresh(refresher, connection_id, trigger=Trigger.SWEEP)

    def swept() -> None:
        clock.tell()
        dispatch_due(sweep)

    revocations = [(life.revoked, realm_id) for realm_id, life in share.lives.values() if life.revoked is not None]
    revocations.sort()
    hour, last, began = 0, share.plan.days * 24, time.monotonic()
    with contextlib.closing(here), ThreadPoolExecutor(THREADS) as pool:
        while hour <= last:
            at = hour * STEP
            while revocations and revocations[0][0] <= at:
                share.provider.revoke(revocations.pop(0)[1])
            clock.at = share.starts + at
            weather = share.plan.weather(at)
            share.provider.now, share.provider.weather = clock.at.timestamp(), weather or Weather.FINE
            hour += 1
            if weather is None:
                continue
            pool.submit(swept).result()  # there, for it needs no session of its own
            for result in pool.map(one, ids):
                lived.note(result, at)
            if not ids:
                due = pool.submit(_next_due, here).result()
                # At the end the clocks stand where the plan ends, whether or not anything is due then.
                hour = max(hour, min(last, -((share.starts - due) // STEP) if due else last))
            ids.clear()
            if share.ends_at is not None and time.monotonic() > share.ends_at:
                raise OutOfTime(f"day {at / DAY:.0f} of {share.plan.days}")
    lived.took_s = time.monotonic() - began
    return lived


def _sweep(here: Runtime, publish: Callable[[Sequence[int]], None]) -> Sweep:
    return Sweep(
        db=here.db,
        keys=here.keys,
        per_sweep=10**6,
        per_minute=10**6,
        every=timedelta(minutes=1),
        pace=here.settings.pace,
        mark=here.settings.queue_mark,
        queue_length=lambda: 0,
        publish=publish,
    )


def _next_due(here: Runtime) -> datetime | None:
    """Return when there is something to sweep again: until then nothing would come of it."""
    mine = {"app": here.keys[0].app_id}
    due: datetime | None = here.db.execute(
        "SELECT min(due_at) AS at FROM qbo.connections WHERE app_id = %(app)s", mine
    ).scalar_one()
    return due
