"""What stands around a refusal: the evidence of a verdict, and the count that trips an app's mass guard.

Both work under locks, the connection's row first and then the app's, so that no two verdicts and no candidate pass each
other unseen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbo_refresh.status import Event
from worker import log, policy
from worker.store import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.attempt import Claim
    from worker.database import Database

_LOCK_APP = """
SELECT now() AS now, guard_tripped_at, guard_released_at, population,
       population_at IS NULL OR population_at <= now() - interval '1 hour' AS is_stale
FROM qbo.apps WHERE id = %(app)s FOR UPDATE
"""
# Those that are refreshed at all, by the index that the sweep uses: a tenth of a second for a million.
_COUNT_POPULATION = """
UPDATE qbo.apps SET population_at = now(), population = (
    SELECT count(*) FROM qbo.connections WHERE app_id = %(app)s AND due_at IS NOT NULL AND NOT frozen)
WHERE id = %(app)s RETURNING population
"""
_RECENT = """
SELECT count(*) AS n FROM (
    SELECT FROM qbo.connections
    WHERE app_id = %(app)s AND suspect_since > now() - %(window)s::interval
      AND suspect_since > COALESCE(%(released_at)s::timestamptz, '-infinity')
      AND (hard_expires_at IS NULL OR hard_expires_at > now())
    LIMIT %(limit)s) AS found
"""
_STANDING = """
SELECT count(*) AS n FROM (
    SELECT FROM qbo.connections
    WHERE app_id = %(app)s AND suspect_since IS NOT NULL AND status = 'suspect'
      AND (hard_expires_at IS NULL OR hard_expires_at > now())
    LIMIT %(limit)s) AS found
"""


def note_suspect(db: Database, claim: Claim) -> None:
    """Count a connection that has just become suspect; trip the guard, and tell operators, with one too many."""
    app = _lock_app(db, claim.app_id)
    if not _guard(db, claim.app_id, app, app.now).is_open:
        return
    population = _population(db, claim.app_id, app)
    threshold = policy.guard_threshold(population)
    recent = _count(db, _RECENT, claim.app_id, threshold, released_at=app.guard_released_at)
    if recent <= threshold:
        return
    db.execute(
        "UPDATE qbo.apps SET guard_tripped_at = clock_timestamp(), guard_note = NULL WHERE id = %(app)s",
        {"app": claim.app_id},
    )
    events.emit_for_app(
        db,
        Event.GUARD_TRIPPED,
        environment=claim.environment,
        client_id=claim.client_id,
        refused_within_an_hour=recent,
        of=population,
    )


# A second statement after the locks: what it reads was committed before they were granted. A connection that was
# refreshed since is due in 20 hours or more (`policy.next_refresh_in`): the sweep's index finds it.
_EVIDENCE = """
SELECT now() AS now, COALESCE(c.hard_expires_at <= now(), false) AS hard_expired, g.epoch_since,
       EXISTS (SELECT FROM qbo.candidates x WHERE x.connection_id = c.id AND x.grant_number = c.grant_number
               AND x.tried_at IS NULL) AS untried,
       (SELECT max(COALESCE(x.refused_again_at, x.tried_at)) FROM qbo.candidates x
        WHERE x.connection_id = c.id AND x.grant_number = c.grant_number
        AND x.settled_at IS NULL AND x.source <> 'previous') AS candidate_refused_at,
       c.previous_refresh_token IS NOT NULL
       AND c.previous_refresh_token_fingerprint IS DISTINCT FROM c.refresh_token_fingerprint AND NOT EXISTS (
           SELECT FROM qbo.candidates x WHERE x.connection_id = c.id AND x.grant_number = c.grant_number
           AND x.fingerprint = c.previous_refresh_token_fingerprint) AS previous_untried,
       EXISTS (SELECT FROM qbo.connections w
               WHERE w.app_id = c.app_id AND w.id <> c.id AND NOT w.frozen
                 AND w.due_at >= c.suspect_since + interval '19 hours'
                 -- by a refresh: a consent says nothing of other grants
                 AND w.attempt_began_at >= c.suspect_since AND w.last_refreshed_at >= w.attempt_began_at) AS witness
FROM qbo.connections c LEFT JOIN qbo.control g ON true WHERE c.id = %(id)s
"""


def evidence(db: Database, claim: Claim) -> policy.Evidence | None:
    """Return what stands around a refusal, and keep the locks until the transaction ends; None if the row is gone."""
    db.execute("SELECT FROM qbo.connections WHERE id = %(id)s FOR UPDATE", {"id": claim.connection_id})
    app = _lock_app(db, claim.app_id)
    row = db.execute(_EVIDENCE, {"id": claim.connection_id}).one_or_none()
    if row is None:
        return None
    return policy.Evidence(**row._mapping, guard=_guard(db, claim.app_id, app, row.now))  # noqa: SLF001  # SQLAlchemy's public name for it


def observe(db: Database, connection_id: int) -> policy.Evidence | None:
    """Return what stands around a connection now, for people: no lock is taken, nothing changes; None if it is gone."""
    row = db.execute(_EVIDENCE, {"id": connection_id}).one_or_none()
    if row is None:
        return None
    app = db.execute(
        "SELECT guard_tripped_at, guard_released_at FROM qbo.apps a JOIN qbo.connections c ON c.app_id = a.id"
        " WHERE c.id = %(id)s",
        {"id": connection_id},
    ).one()
    guard = policy.Guard(app.guard_tripped_at, app.guard_released_at)
    return policy.Evidence(**row._mapping, guard=guard)  # noqa: SLF001  # as above


_TRIPPED = """
SELECT id FROM qbo.apps
WHERE id = ANY (%(apps)s) AND guard_tripped_at IS NOT NULL
  AND (guard_released_at IS NULL OR guard_released_at < guard_tripped_at)
"""


def close_calm_guards(db: Database, app_ids: Sequence[int]) -> None:
    """Close the episodes that are over, also where all have healed and no refusal comes that would find out."""
    for row in db.execute(_TRIPPED, {"apps": list(app_ids)}).all():
        with db.transaction():
            app = _lock_app(db, row.id)
            _guard(db, row.id, app, app.now)


def _guard(db: Database, app_id: int, app: Any, now: Any) -> policy.Guard:
    """Return the app's guard; one whose hour has passed and whose numbers are ordinary again closes its episode."""
    guard = policy.Guard(app.guard_tripped_at, app.guard_released_at)
    if guard.is_open:
        return guard
    population = _population(db, app_id, app)
    threshold = policy.guard_threshold(population)
    recent = _count(db, _RECENT, app_id, threshold)
    standing = _count(db, _STANDING, app_id, threshold)
    if not policy.is_calm(guard, now=now, recent=recent, standing=standing, population=population):
        return guard
    db.execute("UPDATE qbo.apps SET guard_tripped_at = NULL WHERE id = %(app)s", {"app": app_id})
    db.after_commit(lambda: log.info("guard.over", app_id=app_id))
    return policy.Guard(None, guard.released_at)


def _lock_app(db: Database, app_id: int) -> Any:
    return db.execute(_LOCK_APP, {"app": app_id}).one()


def _population(db: Database, app_id: int, app: Any) -> int:
    if app.is_stale:
        return int(db.execute(_COUNT_POPULATION, {"app": app_id}).one().population)
    return int(app.population)


def _count(db: Database, statement: str, app_id: int, threshold: float, *, released_at: Any = None) -> int:
    """Count, but no further than one more than the threshold."""
    values = {
        "app": app_id,
        "window": policy.GUARD_WINDOW,
        "released_at": released_at,
        "limit": math.floor(threshold) + 1,
    }
    return int(db.execute(statement, values).one().n)
