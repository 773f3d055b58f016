"""What stands around a refusal, in memory: `worker.store.verdicts` without SQL and locks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Status
from worker import policy
from worker.attempt import Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tests.explore.tables import App, Kept, Row, Tables
    from tests.explore.world import World


def evidence(world: World, row: Row, *, unsettled: Sequence[Kept]) -> policy.Evidence:
    tables, now = world.tables, world.now
    since = row.suspect_since or now
    known = {
        kept.fingerprint
        for kept in tables.candidates
        if (kept.connection_id, kept.grant_number) == (row.id, row.grant_number)
    }
    refused = [kept.refused_again_at or kept.tried_at for kept in unsettled if kept.source != Source.PREVIOUS]
    return policy.Evidence(
        now=now,
        untried=any(kept.tried_at is None for kept in unsettled),
        candidate_refused_at=max((at for at in refused if at is not None), default=None),
        witness=any(
            other.id != row.id
            and not other.frozen
            and other.due_at is not None
            and other.due_at >= since + timedelta(hours=19)
            and other.attempt_began_at is not None
            and other.attempt_began_at >= since
            and other.last_refreshed_at is not None
            and other.last_refreshed_at >= other.attempt_began_at
            for other in tables.rows.values()
        ),
        guard=_guard(world),
        epoch_since=tables.control.epoch_since,
        previous_untried=row.previous_refresh_token is not None and row.previous_refresh_token_fingerprint not in known,
        hard_expired=row.hard_expires_at is not None and row.hard_expires_at <= now,
    )


def note_suspect(tables: Tables, now: datetime) -> Tables:
    guard = _as_guard(tables.app)
    if not guard.is_open or _recent(tables, now, guard.released_at) <= policy.guard_threshold(_population(tables)):
        return tables
    app = replace(tables.app, guard_tripped_at=now)
    return replace(tables, app=app, events=(*tables.events, (None, Event.GUARD_TRIPPED)))


def _guard(world: World) -> policy.Guard:
    tables, now = world.tables, world.now
    guard = _as_guard(tables.app)
    standing = sum(row.status is Status.SUSPECT for row in tables.rows.values())
    if guard.is_open or not policy.is_calm(
        guard, now=now, recent=_recent(tables, now, None), standing=standing, population=_population(tables)
    ):
        return guard
    world.tables = replace(tables, app=replace(tables.app, guard_tripped_at=None))  # committed with the conclusion
    return policy.Guard(None, guard.released_at)


def _as_guard(app: App) -> policy.Guard:
    return policy.Guard(app.guard_tripped_at, app.guard_released_at)


def _population(tables: Tables) -> int:
    return sum(row.due_at is not None and not row.frozen for row in tables.rows.values())


def _recent(tables: Tables, now: datetime, released_at: datetime | None) -> int:
    return sum(
        row.suspect_since is not None
        and row.suspect_since > now - policy.GUARD_WINDOW
        and (released_at is None or row.suspect_since > released_at)
        and (row.hard_expires_at is None or row.hard_expires_at > now)
        for row in tables.rows.values()
    )
