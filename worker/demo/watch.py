"""What the display shows, read from the tables as an outsider would: the demo does not trust the code that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from worker.database import Database

# An attempt that is in the ledger is over: if its lease still stands, it is in doubt and waits for that to end.
_COUNTS = """
SELECT count(*) AS total, count(last_refreshed_at) AS refreshed, count(attempt_began_at) AS asked,
       count(*) FILTER (WHERE status = 'active') AS active, count(*) FILTER (WHERE status = 'suspect') AS suspect,
       count(*) FILTER (WHERE status = 'needs_reauth') AS needs_reauth,
       count(*) FILTER (WHERE leased AND attempt_worker IS DISTINCT FROM %(dead)s) AS under_way,
       count(*) FILTER (WHERE leased AND attempt_worker = %(dead)s) AS stranded,
       count(*) FILTER (WHERE lease_id IS NOT NULL AND NOT leased) AS in_doubt,
       (SELECT count(DISTINCT connection_id) FROM qbo.sync_holds) AS held
FROM (SELECT *, lease_id IS NOT NULL AND NOT EXISTS (
                    SELECT FROM qbo.refresh_attempts r WHERE r.attempt_id = lease_id) AS leased
      FROM qbo.connections) AS c
"""
_LAST = """
SELECT connection_id, outcome, reason, worker, began_at + make_interval(secs => COALESCE(duration_ms, 0) / 1000.0) AS at
FROM qbo.refresh_attempts ORDER BY at DESC, attempt_id LIMIT %(limit)s
"""
_LEASED_BY = """
SELECT id, realm_hash FROM qbo.connections
WHERE attempt_worker = %(worker)s AND leased_until > now()
  AND NOT EXISTS (SELECT FROM qbo.refresh_attempts r WHERE r.attempt_id = lease_id)
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A line of the ledger; `at` is when it ended."""

    at: datetime
    connection_id: int
    outcome: str
    reason: str | None
    worker: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment.

    Attributes:
        asked: Connections that Intuit has been asked about, or is being asked about for the first time.
        stranded: Those whose lease a dead worker has left behind.
        in_doubt: Those that wait for the end of a lease because no answer came.
    """

    total: int
    refreshed: int
    asked: int
    by_status: Mapping[Status, int]
    under_way: int
    stranded: int
    in_doubt: int
    held: int
    attempts: tuple[Attempt, ...] = ()

    def is_settled(self, *, revoked: int) -> bool:
        """Tell whether every grant was refreshed or found revoked, and nothing is under way."""
        over = self.by_status[Status.NEEDS_REAUTH] == revoked and self.refreshed == self.total - revoked
        return over and not (self.under_way or self.stranded or self.in_doubt)


def look(db: Database, *, dead: str | None = None, attempts: int = 8) -> Snapshot:
    """Return the fleet as it is now, with its last attempts, the latest first.

    Args:
        db: The database.
        dead: The worker that was killed, by its name in the ledger.
        attempts: At most so many.
    """
    row = db.execute(_COUNTS, {"dead": dead}).one()
    last = db.execute(_LAST, {"limit": attempts})
    return Snapshot(
        total=row.total,
        refreshed=row.refreshed,
        asked=row.asked,
        by_status={status: getattr(row, status) for status in (Status.ACTIVE, Status.SUSPECT, Status.NEEDS_REAUTH)},
        under_way=row.under_way,
        stranded=row.stranded,
        in_doubt=row.in_doubt,
        held=row.held,
        attempts=tuple(Attempt(a.at, a.connection_id, a.outcome, a.reason, a.worker) for a in last),
    )


def leased_by(db: Database, worker: str) -> dict[bytes, int]:
    """Return the connections that a worker is refreshing at this moment: hash of the realm → id."""
    return {bytes(row.realm_hash): row.id for row in db.execute(_LEASED_BY, {"worker": worker})}


def database_time(db: Database) -> datetime:
    """Return the clock that the ledger is written by."""
    now: datetime = db.execute("SELECT now() AS now").one().now
    return now
