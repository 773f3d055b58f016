"""What the next sweep would do and what it would not, by reason: the rules of `worker.dispatch` on counted numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.dispatch import BATCH, UNFIT, budget_of, urgent_share
from worker.store import control, dispatch, forecast, held, totals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from worker.attempt import Keys
    from worker.database import Database
    from worker.settings import Settings
    from worker.store.forecast import Part
    from worker.store.totals import AppState

WOULD_GO = "published"


@dataclass(frozen=True, slots=True)
class Group:
    """Connections of one app that the next sweep treats alike.

    Attributes:
        reason: `published`, or why not.
        detail: The last reason of those that pause.
        until: When the first of them may go, or is due; None if no time ends it.
    """

    app_id: int
    reason: str
    connections: int
    detail: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What the next sweep would do.

    Attributes:
        budget: It publishes at most so many; a share of `per_sweep` while the fleet starts slowly.
        stopped: Why it would publish nothing at all; None if it would run.
        groups: Every connection is in one of them.
    """

    at: datetime
    per_sweep: int
    budget: int
    stopped: str | None
    apps: Sequence[AppState]
    groups: Sequence[Group]

    @property
    def published(self) -> int:
        """Return how many it would publish."""
        return sum(group.connections for group in self.groups if group.reason == WOULD_GO)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a sweep meets.

    Attributes:
        stopped: Why it would do nothing; None if it would run.
        usable, probing: As `store.dispatch.open_apps` returns them.
        here: The apps whose secrets are in this configuration.
        waits: App id → when its throttle ends, or the next probe may go.
    """

    budget: int
    stopped: str | None
    here: frozenset[int]
    usable: Sequence[int]
    probing: Sequence[int]
    waits: Mapping[int, datetime | None]
    throttled: frozenset[int]


def take(db: Database, config: Settings, *, queue_trouble: str | None = None) -> Preview:
    """Gather it: one pass over the connections and a few small statements.

    Args:
        db: The database.
        config: This process's settings.
        queue_trouble: Why the broker takes nothing (`queue_full`, `redis_away`); None if it does.
    """
    known = control.look(db, lease=config.pace.lease)
    state, apps = totals.control(db), totals.app_states(db)
    keys = held.secrets(apps, config) or ()
    usable, probing = dispatch.open_apps(db, keys) if keys else ([], [])
    stopped = queue_trouble or UNFIT.get(known.identity)
    budget = budget_of(config.refreshes_per_sweep, dispatch.running_for(db))
    met = Circumstances(
        budget=budget,
        stopped="everything_frozen" if state.frozen and stopped is None else stopped,
        here=frozenset(key.app_id for key in keys),
        usable=usable,
        probing=probing,
        waits={app.id: _wait(app, keys) for app in apps},
        throttled=frozenset(app.id for app in apps if app.throttled_until),
    )
    groups = tuple(sort(forecast.parts(db), met))
    return Preview(known.at, config.refreshes_per_sweep, budget, met.stopped, apps, groups)


def _wait(app: AppState, keys: Sequence[Keys]) -> datetime | None:
    mine = {secret_hash for key in keys if key.app_id == app.id for secret_hash in key.secret_hashes}
    probes = [block.probe_at for block in app.blocks if block.secret_hash in mine and block.probe_at]
    return app.throttled_until or min(probes, default=None)


def sort(parts: Sequence[Part], met: Circumstances) -> list[Group]:
    """Put every connection into the group that the next sweep would treat it as."""
    groups = [
        Group(part.app_id, _reason(part, met), part.connections, part.detail, part.first_at)
        for part in parts
        if part.part != "due" or part.app_id not in met.here or met.stopped
    ]
    due = {part.app_id: part for part in parts if part.part == "due" and part.app_id in met.here and not met.stopped}
    left = met.budget
    for app_id, part in due.items():
        if app_id in met.usable:
            continue
        probes = 1 if app_id in met.probing else 0
        left -= probes
        if probes:
            groups.append(Group(app_id, WOULD_GO, 1, "probe"))
        if part.connections > probes:
            reason = "throttled" if app_id in met.throttled else "blocked"
            groups.append(Group(app_id, reason, part.connections - probes, until=met.waits.get(app_id)))
    for app_id, number in _shared(due, met.usable, max(left, 0)).items():
        if number:
            groups.append(Group(app_id, WOULD_GO, number))
        if rest := due[app_id].connections - number:
            groups.append(Group(app_id, "over_the_rate", rest))
    return groups


def _reason(part: Part, met: Circumstances) -> str:
    """Return why these are not published; what is due, and could be, waits for what stops the whole sweep."""
    if part.app_id not in met.here and part.part not in {"disconnected", "needs_reauth", "never", "frozen"}:
        return "no_keys"
    return met.stopped or part.part if part.part == "due" else part.part


def _shared(due: Mapping[int, Part], usable: Sequence[int], budget: int) -> dict[int, int]:
    """Return app id → how many of it are published: urgent ones in a half, then a batch of each app in turn."""
    published: dict[int, int] = {}
    left, urgent = budget, urgent_share(budget)
    for app_id in usable:
        if app_id in due:
            published[app_id] = min(due[app_id].urgent, urgent)
            urgent -= published[app_id]
            left -= published[app_id]
    waiting = {app_id: due[app_id].connections - number for app_id, number in published.items()}
    while left > 0 and any(waiting.values()):
        for app_id, number in waiting.items():
            batch = min(number, left, BATCH)
            published[app_id] += batch
            waiting[app_id] -= batch
            left -= batch
    return published
