"""The mass guard as an operator sees it: who was refused, who waits, and letting the verdicts go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.policy import GUARD_WINDOW, Guard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.database import Database


@dataclass(frozen=True, slots=True)
class Suspect:
    """A connection whose grant was refused once, or whose verdict is withheld.

    Attributes:
        asked_again_at: When it is asked next; None for never.
        withheld: What stood against its verdict when it was asked last; None if it was not asked again yet.
    """

    id: int
    label: str | None
    suspect_since: datetime
    asked_again_at: datetime | None
    withheld: str | None


@dataclass(frozen=True, slots=True)
class Guarded:
    """One app's guard.

    Attributes:
        at: The database's time.
        recent: Connections that became suspect within the hour; those past their hard expiry are not counted.
        suspects: All that are suspect now.
        population: Of so many that are refreshed at all.
    """

    app_id: int
    environment: str
    client_id: str
    guard: Guard
    note: str | None
    at: datetime
    recent: int
    suspects: int
    population: int


_GUARDS = """
SELECT a.id AS app_id, a.environment, a.client_id, a.guard_tripped_at, a.guard_released_at, a.guard_note, now() AS at,
       (SELECT count(*) FROM qbo.connections c
        WHERE c.app_id = a.id AND c.suspect_since > now() - %(window)s::interval
          AND (c.hard_expires_at IS NULL OR c.hard_expires_at > now())) AS recent,
       (SELECT count(*) FROM qbo.connections c
        WHERE c.app_id = a.id AND c.suspect_since IS NOT NULL AND c.status = 'suspect') AS suspects,
       (SELECT count(*) FROM qbo.connections c
        WHERE c.app_id = a.id AND c.due_at IS NOT NULL AND NOT c.frozen) AS population
FROM qbo.apps a ORDER BY a.id
"""


def guards(db: Database) -> Sequence[Guarded]:
    """Return every app's guard. The population is counted anew, by the sweep's index."""
    return [
        Guarded(
            row.app_id,
            row.environment,
            row.client_id,
            Guard(row.guard_tripped_at, row.guard_released_at),
            row.guard_note,
            row.at,
            row.recent,
            row.suspects,
            row.population,
        )
        for row in db.execute(_GUARDS, {"window": GUARD_WINDOW})
    ]


_SUSPECTS = """
SELECT c.id, c.label, c.suspect_since, c.due_at AS asked_again_at, last.withheld
FROM qbo.connections c LEFT JOIN LATERAL (
    SELECT r.withheld FROM qbo.refresh_attempts r WHERE r.connection_id = c.id
    ORDER BY r.began_at DESC LIMIT 1) AS last ON true
WHERE c.app_id = %(app)s AND c.suspect_since IS NOT NULL AND c.status = 'suspect'
ORDER BY c.suspect_since, c.id LIMIT %(limit)s
"""


def suspects(db: Database, app_id: int, *, limit: int) -> Sequence[Suspect]:
    """Return an app's suspects, the one that has waited longest first."""
    rows = db.execute(_SUSPECTS, {"app": app_id, "limit": limit})
    return [Suspect(**row._mapping) for row in rows]  # noqa: SLF001  # SQLAlchemy's public name for it


_RELEASE = """
UPDATE qbo.apps SET guard_released_at = clock_timestamp(), guard_note = %(reason)s WHERE id = ANY (%(apps)s::int[])
"""


def release(db: Database, app_ids: Sequence[int], *, reason: str) -> None:
    """Let verdicts pass again: those that wait for the guard, and those that wait for a changed database."""
    db.execute(_RELEASE, {"apps": list(app_ids), "reason": reason})
