"""Every connection's part in the next sweep, counted in one pass: the sweep's own conditions, told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.policy import LONGEST_LEASE, NEAR_EXPIRY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.database import Database


@dataclass(frozen=True, slots=True)
class Part:
    """Connections of one app that have a part in common.

    Attributes:
        part: `due`, or why a row is not in the sweep's query at all (see below).
        detail: The last reason of what pauses; None for the others.
        urgent: Those of them whose grants end so soon that they go first.
        first_at: When the first of them is due.
    """

    app_id: int
    part: str
    detail: str | None
    connections: int
    urgent: int
    first_at: datetime | None


# In the order of the sweep's conditions (`store.dispatch`): what is never refreshed, what rests, what is not due, what
# is under way. The last is the sweep's choice.
_PARTS = """
SELECT app_id, part, detail, count(*) AS connections,
       count(*) FILTER (WHERE refresh_expires_at <= now() + %(near)s::interval) AS urgent, min(due_at) AS first_at
FROM (
    SELECT app_id, due_at, refresh_expires_at,
           CASE
               WHEN due_at IS NULL THEN CASE WHEN status IN ('disconnected', 'needs_reauth') THEN status
                                             ELSE 'never' END
               WHEN frozen THEN 'frozen'
               WHEN due_at > now() THEN CASE WHEN status = 'needs_reauth' THEN 'second_chance'
                                             WHEN next_refresh_at <= now() THEN 'paused'
                                             ELSE 'not_due' END
               WHEN lease_id IS NOT NULL AND leased_until > now() + %(longest)s::interval THEN 'impossible_lease'
               WHEN lease_id IS NOT NULL AND leased_until > now() THEN CASE WHEN in_doubt THEN 'in_doubt'
                                                                            ELSE 'under_way' END
               WHEN queued_until > now() THEN 'queued'
               ELSE 'due' END AS part,
           CASE WHEN due_at > now() AND next_refresh_at <= now() AND NOT frozen AND status <> 'needs_reauth'
                THEN COALESCE(last_reason, last_outcome, 'unknown') END AS detail
    FROM qbo.connections) AS parted
GROUP BY app_id, part, detail
"""


def parts(db: Database) -> Sequence[Part]:
    """Count the fleet by app and part. Goes over every row."""
    rows = db.execute(_PARTS, {"near": NEAR_EXPIRY, "longest": LONGEST_LEASE})
    return [Part(**row._mapping) for row in rows]  # noqa: SLF001  # SQLAlchemy's public name for it
