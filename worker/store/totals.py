"""Where the fleet stands as a whole.

`totals` goes over `connections` once, on as many processes as PostgreSQL gives it (a million rows of 2 KB took 1.6 s on
two cores; an index over all it reads saved half of that and would cost each refresh). The rest is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.database import Database

LATE = timedelta(hours=2)
STALE = timedelta(hours=26)  # a day, its spread, and an hour
EXPIRES_SOON = timedelta(days=10)


@dataclass(frozen=True, slots=True)
class Total:
    """The connections that have an app, a status and a last outcome in common.

    Attributes:
        waiting: Those that are refreshed at all, now or later.
        overdue: Due for more than `LATE`, or active and not refreshed for more than `STALE`.
        attempted_hour: Those whose last attempt that ended began within an hour.
        expires: The nearest end of a grant.
        expiring: Grants that end within `EXPIRES_SOON`, though they are refreshed.
    """

    app_id: int
    status: str
    last_outcome: str | None
    connections: int
    waiting: int
    due: int
    overdue: int
    leased: int
    in_doubt: int
    frozen: int
    attempted_hour: int
    attempted_day: int
    expires: datetime | None
    expiring: int
    hard_expiring: int


_TOTALS = """
SELECT app_id, status, last_outcome, count(*) AS connections, count(next_refresh_at) AS waiting,
       count(*) FILTER (WHERE due_at <= now() AND NOT frozen) AS due,
       count(*) FILTER (WHERE NOT frozen AND (due_at <= now() - %(late)s::interval
           OR status = 'active' AND COALESCE(last_refreshed_at, created_at) <= now() - %(stale)s::interval)) AS overdue,
       count(*) FILTER (WHERE leased_until > now()) AS leased,
       count(*) FILTER (WHERE in_doubt) AS in_doubt,
       count(*) FILTER (WHERE frozen) AS frozen,
       count(*) FILTER (WHERE lease_id IS NULL AND attempt_began_at > now() - interval '1 hour') AS attempted_hour,
       count(*) FILTER (WHERE lease_id IS NULL AND attempt_began_at > now() - interval '1 day') AS attempted_day,
       min(refresh_expires_at) FILTER (WHERE status IN ('active', 'suspect')) AS expires,
       count(*) FILTER (WHERE status IN ('active', 'suspect')
                        AND refresh_expires_at <= now() + %(soon)s::interval) AS expiring,
       count(*) FILTER (WHERE status IN ('active', 'suspect')
                        AND hard_expires_at <= now() + %(soon)s::interval) AS hard_expiring
FROM qbo.connections GROUP BY app_id, status, last_outcome
"""


def totals(db: Database) -> Sequence[Total]:
    """Count the fleet in one pass over the table."""
    rows = db.execute(_TOTALS, {"late": LATE, "stale": STALE, "soon": EXPIRES_SOON})
    return [Total(**row._mapping) for row in rows]  # noqa: SLF001  # SQLAlchemy's public name for it


@dataclass(frozen=True, slots=True)
class Block:
    """One client secret that Intuit refuses."""

    secret_hash: bytes
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class AppState:
    """One Intuit app as the database knows it."""

    id: int
    environment: str
    client_id: str
    throttled_until: datetime | None
    swept_at: datetime | None
    blocks: tuple[Block, ...]


def app_states(db: Database) -> Sequence[AppState]:
    """Return the apps that rows belong to; `throttled_until` only while it lasts."""
    blocks: dict[int, list[Block]] = {}
    for row in db.execute(
        "SELECT app_id, secret_hash, reason, blocked_at FROM qbo.app_blocks WHERE blocked_at IS NOT NULL"
        " ORDER BY blocked_at"
    ):
        blocks.setdefault(row.app_id, []).append(Block(bytes(row.secret_hash), row.reason, row.blocked_at))
    rows = db.execute(
        "SELECT id, environment, client_id, CASE WHEN throttled_until > now() THEN throttled_until END AS throttled,"
        " swept_at FROM qbo.apps ORDER BY id"
    )
    return [
        AppState(row.id, row.environment, row.client_id, row.throttled, row.swept_at, tuple(blocks.get(row.id, ())))
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Control:
    """The database's own state, and what waits beside the connections.

    Attributes:
        at: The database's time.
        held: Connections whose syncs are paused, by reason.
        undelivered_since: When the oldest event that waits for delivery was written; None if none waits.
    """

    at: datetime
    frozen: bool
    frozen_reason: str | None
    swept_at: datetime | None
    candidates: int
    undelivered_since: datetime | None
    held: dict[str, int]


_CONTROL = """
SELECT now() AS at, g.frozen, g.frozen_reason,
       (SELECT max(swept_at) FROM qbo.apps) AS swept_at,
       (SELECT count(*) FROM qbo.candidates WHERE tried_at IS NULL) AS candidates,
       (SELECT COALESCE(resent_at, created_at) FROM qbo.outbox WHERE delivered_at IS NULL ORDER BY id LIMIT 1)
           AS undelivered_since
FROM qbo.control g
"""


def control(db: Database) -> Control:
    """Return what the control row, the candidates, the outbox and the holds say."""
    row = db.execute(_CONTROL).one()
    held = db.execute("SELECT reason, count(*) AS n FROM qbo.sync_holds GROUP BY reason ORDER BY reason")
    return Control(
        row.at, row.frozen, row.frozen_reason, row.swept_at, row.candidates, row.undelivered_since,
        {each.reason: each.n for each in held},
    )  # fmt: skip
