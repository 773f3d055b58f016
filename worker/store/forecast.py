"""Every connection's part in the next sweep, counted in one pass: the sweep's own conditions, told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.policy import LONGEST_LEASE, NEAR_EXPIRY
from worker.store.claims import key_arrays
from worker.store.dispatch import AS_LET_GO, IS_FREE, IS_UNMARKED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from worker.attempt import Keys
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


# In the order of the sweep's conditions: what is never refreshed, what rests, what is not due, what is under way. The
# last is the sweep's choice.
_PARTS = f"""
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
               WHEN {IS_FREE} IS NOT TRUE THEN CASE WHEN leased_until > now() + %(longest)s::interval
                                                        THEN 'impossible_lease'
                                                    WHEN in_doubt THEN 'in_doubt'
                                                    ELSE 'under_way' END
               WHEN NOT {IS_UNMARKED} THEN 'queued'
               ELSE 'due' END AS part,
           CASE WHEN due_at > now() AND next_refresh_at <= now() AND NOT frozen AND status <> 'needs_reauth'
                THEN COALESCE(last_reason, last_outcome, 'unknown') END AS detail
    FROM ({AS_LET_GO}) AS connections) AS parted
GROUP BY app_id, part, detail
"""  # noqa: S608  # composed of constants


def parts(db: Database, keys: tuple[Keys, ...], *, horizon: timedelta) -> Sequence[Part]:
    """Count the fleet by app and part. Goes over every row.

    Args:
        db: The database.
        keys: Of the apps that the sweep is for; none if it would not even let go what is far off.
        horizon: As in `dispatch.let_far_off_go`.
    """
    values = {"near": NEAR_EXPIRY, "longest": LONGEST_LEASE, "horizon": horizon, **key_arrays(keys)}
    return [Part(**row._mapping) for row in db.execute(_PARTS, values)]  # noqa: SLF001  # SQLAlchemy's public name for it
