"""The sweep: marks due connections as queued, commits, then publishes one message for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker import log, policy
from worker.store import claims, control, dispatch
from worker.store.control import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from worker.attempt import Keys
    from worker.database import Database
    from worker.policy import Pace

BATCH = 1000
MINUTES_QUEUED_AT_MOST = 2
UNFIT = {
    Identity.QUIET: "new_epoch",
    Identity.ANOTHER: "another_database",
    Identity.NO_CONTROL_ROW: "no_control_row",
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep works with.

    Attributes:
        per_sweep: Publish at most so many connections.
        every: The time between two sweeps.
        pace: The configured durations.
        mark: How long a published connection counts as queued.
        queue_length: Asks the broker how many messages wait.
        publish: Sends one message for each id.
    """

    db: Database
    keys: tuple[Keys, ...]
    per_sweep: int
    per_minute: int
    every: timedelta
    pace: Pace
    mark: timedelta
    queue_length: Callable[[], int]
    publish: Callable[[Sequence[int]], None]


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did; `skipped` says why it did nothing, None if it ran."""

    published: int
    skipped: str | None = None


def longest_queue(per_minute: int) -> int:
    """Return how many messages may wait before nothing is added."""
    return MINUTES_QUEUED_AT_MOST * per_minute


def budget_of(per_sweep: int, running_for: timedelta | None) -> int:
    """Return how many connections a sweep publishes at most, so long after the fleet was let go."""
    return max(1, round(per_sweep * policy.ramp(running_for)))


def urgent_share(budget: int) -> int:
    """Return how much of a sweep goes to grants that die soon.

    No more than half: those that cannot be refreshed must not keep all others from their turn.
    """
    return -(-budget // 2)


def dispatch_due(sweep: Sweep) -> Swept:
    """Publish what is due, in batches, so that a fleet of any size takes the memory of one batch.

    Two dispatchers at once, a backlog of sweep messages and a flushed broker are harmless: the marks decide.
    """
    if sweep.queue_length() > longest_queue(sweep.per_minute):
        return _skipped("queue_full")
    identity = control.recognise(sweep.db, lease=sweep.pace.lease)
    if identity is not Identity.SAME:
        return _skipped(UNFIT[identity])
    if not dispatch.begin_sweep(sweep.db, sweep.keys, every=sweep.every):
        return _skipped("swept_already")
    for connection_id in claims.shorten_impossible_leases(sweep.db, sweep.keys):
        log.error("lease.impossible", connection_id=connection_id)
    if far_off := dispatch.let_far_off_go(sweep.db, sweep.keys, horizon=sweep.pace.horizon):
        log.warning("schedule.far_off", connections=far_off)
    gates = dispatch.gates(sweep.db, sweep.keys)
    budget = budget_of(sweep.per_sweep, dispatch.running_for(sweep.db))
    published = 0
    for app_id in gates.probing:
        ids = dispatch.mark_probe(sweep.db, app_id=app_id, mark=sweep.mark)
        if ids:
            sweep.publish(ids)
        published += len(ids)
    urgent = urgent_share(budget - published)
    for app_id in gates.usable:
        sent = _publish_urgent(sweep, app_id, budget=urgent)
        urgent, published = urgent - sent, published + sent
    published += _publish_due(sweep, gates.usable, budget=budget - published)
    log.info("sweep", published=published)
    return Swept(published)


def _publish_urgent(sweep: Sweep, app_id: int, *, budget: int) -> int:
    published = 0
    while published < budget:
        limit = min(BATCH, budget - published)
        ids = dispatch.mark_urgent(sweep.db, app_id=app_id, limit=limit, mark=sweep.mark)
        if ids:
            sweep.publish(ids)
        published += len(ids)
        if len(ids) < limit:
            break
    return published


def _publish_due(sweep: Sweep, app_ids: Sequence[int], *, budget: int) -> int:
    """Publish the most overdue of each app in turn, so that a large app does not make a small one wait."""
    published = 0
    ends: dict[int, dispatch.Due | None] = dict.fromkeys(app_ids)
    while ends and published < budget:
        for app_id, after in list(ends.items()):
            limit = min(BATCH, budget - published)
            ids, ends[app_id] = dispatch.mark_due(sweep.db, app_id=app_id, limit=limit, mark=sweep.mark, after=after)
            if ids:
                sweep.publish(ids)
            published += len(ids)
            if len(ids) < limit:
                del ends[app_id]
            if published >= budget:
                break
    return published


def _skipped(reason: str) -> Swept:
    log.info("sweep.skipped", reason=reason)
    return Swept(0, reason)
