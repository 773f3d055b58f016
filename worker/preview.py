"""What the next sweep would do and what it would not, by reason: the rules of `worker.dispatch` on counted numbers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from worker.dispatch import BATCH, UNFIT, budget_of, urgent_share
from worker.store import control, dispatch, forecast, held, totals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.attempt import Keys
    from worker.database import Database
    from worker.settings import Settings
    from worker.store.dispatch import Gates
    from worker.store.forecast import Part
    from worker.store.totals import AppState

WOULD_GO = "published"
_EARLIEST = datetime.min.replace(tzinfo=UTC)


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
        gates: Which of them may go.
        here: The apps whose secrets are in this configuration.
        waits: App id → when its throttle ends, or the next probe may go.
    """

    budget: int
    stopped: str | None
    here: frozenset[int]
    gates: Gates
    waits: Mapping[int, datetime | None]


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
    gates = dispatch.gates(db, keys)
    stopped = queue_trouble or UNFIT.get(known.identity)
    if state.frozen and stopped is None:
        stopped = "everything_frozen"
    budget = budget_of(config.refreshes_per_sweep, dispatch.running_for(db))
    met = Circumstances(
        budget=budget,
        stopped=stopped,
        here=frozenset(key.app_id for key in keys),
        gates=gates,
        waits={app.id: app.throttled_until if app.id in gates.throttled else _probe_at(app, keys) for app in apps},
    )
    parts = forecast.parts(db, () if stopped else keys, horizon=config.pace.horizon)
    return Preview(known.at, config.refreshes_per_sweep, budget, stopped, apps, tuple(sort(parts, met)))


def _probe_at(app: AppState, keys: Sequence[Keys]) -> datetime | None:
    mine = {secret_hash for key in keys if key.app_id == app.id for secret_hash in key.secret_hashes}
    probes = [block.probe_at for block in app.blocks if block.secret_hash in mine and block.probe_at]
    return min(probes, default=None)


def sort(parts: Sequence[Part], met: Circumstances) -> list[Group]:
    """Put every connection into the group that the next sweep would treat it as."""
    going = [] if met.stopped else [part for part in parts if part.app_id in met.here]
    due = {part.app_id: part for part in going if part.part == "due"}
    probed = _probed(going, met.gates.probing)
    groups = [Group(app_id, WOULD_GO, 1, "probe") for app_id in probed]
    published = _shared(due, met.gates.usable, max(met.budget - len(probed), 0))
    groups += [Group(app_id, WOULD_GO, number) for app_id, number in published.items() if number]
    for part in parts:
        goes = published.get(part.app_id, 0) if part is due.get(part.app_id) else 0
        left = part.connections - goes - (part is probed.get(part.app_id))
        if left:
            reason, until = _reason(part, met), part.first_at
            if reason in ("throttled", "blocked"):
                until = met.waits.get(part.app_id)
            groups.append(Group(part.app_id, reason, left, part.detail, None if reason == "over_the_rate" else until))
    return groups


def _probed(going: Sequence[Part], probing: Sequence[int]) -> dict[int, Part]:
    """Return app id → the part of which one is published as a probe: the most overdue is, also if it is queued."""
    probed: dict[int, Part] = {}
    for app_id in probing:
        mine = [part for part in going if part.app_id == app_id and part.part in ("due", "queued")]
        if mine:
            # What no program can read lies before all else. Of two that are as overdue, the marked one went first.
            probed[app_id] = min(mine, key=lambda part: (part.first_at or _EARLIEST, part.part == "due"))
    return probed


def _reason(part: Part, met: Circumstances) -> str:
    """Return why these are not published; what is due, and could be, waits for what stops the whole sweep."""
    if part.app_id not in met.here and part.part not in {"disconnected", "needs_reauth", "never", "frozen"}:
        return "no_keys"
    if part.part != "due":
        return part.part
    if met.stopped:
        return met.stopped
    if part.app_id in met.gates.usable:
        return "over_the_rate"
    return "throttled" if part.app_id in met.gates.throttled else "blocked"


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
