"""Where the fleet stands as a whole.

`totals` goes over `connections` once, on as many processes as PostgreSQL gives it (a million rows of 2 KB took 1.6 s on
two cores; an index over all it reads saved half of that and would cost each refresh). The rest is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.policy import LONGEST_LEASE, Guard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.attempt import Keys
    from worker.database import Database

LATE = timedelta(hours=2)
WRITER_RECENT = timedelta(days=7)
STALE = timedelta(hours=26)  # a day, its spread, and an hour
EXPIRES_SOON = timedelta(days=10)
UNEXCHANGED, UNREVOKED = timedelta(minutes=10), timedelta(hours=1)
SWEEPS_MISSED = 3


@dataclass(frozen=True, slots=True)
class Total:
    """The connections that have an app, a status and a last outcome in common.

    Attributes:
        waiting: Those that are refreshed at all, now or later.
        overdue: Due for more than `LATE`, or active or suspect and not refreshed for more than `STALE`.
        attempted_hour: Those whose last attempt that ended began within an hour.
        expires: The nearest end of a grant.
        expiring: Grants that end within `EXPIRES_SOON`, though they are refreshed.
        hard_expiring: Those whose five years are over within it; of `hard_inferred` Intuit has not said so.
        impossible_leases: Those whose lease ends later than any can.
        previous_secret: Those that were refreshed last with another client secret than the one in use here.
        second_writers: Those of whose grant somebody else was seen to have a newer token, within `WRITER_RECENT`.
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
    hard_inferred: int
    impossible_leases: int
    previous_secret: int
    second_writers: int


_TOTALS = """
SELECT app_id, status, last_outcome, count(*) AS connections, count(next_refresh_at) AS waiting,
       count(*) FILTER (WHERE due_at <= now() AND NOT frozen) AS due,
       count(*) FILTER (WHERE NOT frozen AND (due_at <= now() - %(late)s::interval
           OR status IN ('active', 'suspect')
              AND COALESCE(last_refreshed_at, created_at) <= now() - %(stale)s::interval)) AS overdue,
       count(*) FILTER (WHERE leased_until > now()) AS leased,
       count(*) FILTER (WHERE in_doubt) AS in_doubt,
       count(*) FILTER (WHERE frozen) AS frozen,
       count(*) FILTER (WHERE lease_id IS NULL AND attempt_began_at > now() - interval '1 hour') AS attempted_hour,
       count(*) FILTER (WHERE lease_id IS NULL AND attempt_began_at > now() - interval '1 day') AS attempted_day,
       min(refresh_expires_at) FILTER (WHERE status IN ('active', 'suspect')) AS expires,
       count(*) FILTER (WHERE status IN ('active', 'suspect')
                        AND refresh_expires_at <= now() + %(soon)s::interval) AS expiring,
       count(*) FILTER (WHERE status IN ('active', 'suspect')
                        AND hard_expires_at <= now() + %(soon)s::interval) AS hard_expiring,
       count(*) FILTER (WHERE status IN ('active', 'suspect') AND hard_expires_inferred
                        AND hard_expires_at <= now() + %(soon)s::interval) AS hard_inferred,
       count(*) FILTER (WHERE leased_until > now() + %(longest)s::interval) AS impossible_leases,
       count(*) FILTER (WHERE status IN ('active', 'suspect') AND app_id = ANY (%(apps)s)
                        AND last_secret <> ALL (%(current)s::text[])) AS previous_secret,
       count(*) FILTER (WHERE second_writer_at > now() - %(writer)s::interval) AS second_writers
FROM qbo.connections GROUP BY app_id, status, last_outcome
"""


def totals(db: Database, keys: Sequence[Keys]) -> Sequence[Total]:
    """Count the fleet in one pass over the table.

    Args:
        db: The database.
        keys: Of the apps whose secrets are here: which secret is the one in use.
    """
    rows = db.execute(
        _TOTALS,
        {
            "late": LATE,
            "stale": STALE,
            "soon": EXPIRES_SOON,
            "longest": LONGEST_LEASE,
            "writer": WRITER_RECENT,
            "apps": [each.app_id for each in keys],
            "current": [each.secret_hashes[0].hex() for each in keys],
        },
    )
    return [Total(**row._mapping) for row in rows]  # noqa: SLF001  # SQLAlchemy's public name for it


@dataclass(frozen=True, slots=True)
class Block:
    """One client secret that Intuit refuses; the next connection tries it at `probe_at`."""

    secret_hash: bytes
    reason: str
    since: datetime
    probe_at: datetime | None


@dataclass(frozen=True, slots=True)
class AppState:
    """One Intuit app as the database knows it."""

    id: int
    environment: str
    client_id: str
    throttled_until: datetime | None
    swept_at: datetime | None
    guard: Guard
    guard_note: str | None
    blocks: tuple[Block, ...]


def app_states(db: Database) -> Sequence[AppState]:
    """Return the apps that rows belong to; `throttled_until` only while it lasts."""
    blocks: dict[int, list[Block]] = {}
    for row in db.execute(
        "SELECT app_id, secret_hash, reason, blocked_at, probe_at FROM qbo.app_blocks WHERE blocked_at IS NOT NULL"
        " ORDER BY blocked_at"
    ):
        block = Block(bytes(row.secret_hash), row.reason, row.blocked_at, row.probe_at)
        blocks.setdefault(row.app_id, []).append(block)
    rows = db.execute(
        "SELECT id, environment, client_id, CASE WHEN throttled_until > now() THEN throttled_until END AS throttled,"
        " swept_at, guard_tripped_at, guard_released_at, guard_note FROM qbo.apps ORDER BY id"
    )
    return [
        AppState(
            row.id,
            row.environment,
            row.client_id,
            row.throttled,
            row.swept_at,
            Guard(row.guard_tripped_at, row.guard_released_at),
            row.guard_note,
            tuple(blocks.get(row.id, ())),
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Control:
    """The database's own state, and what waits beside the connections.

    Attributes:
        at: The database's time.
        held: Connections whose syncs are paused, by reason.
        consents: Called back, and not exchanged yet; `consents_since` is when the oldest came.
        revocations: Tokens that Intuit has not said to be gone; `revocations_since` is when the oldest was to be.
        stalled_since: Since when due connections have not been refreshed, as the watch has seen it.
        undelivered_since: When the oldest event that waits for delivery was written; None if none waits.
    """

    at: datetime
    frozen: bool
    frozen_reason: str | None
    swept_at: datetime | None
    candidates: int
    undelivered_since: datetime | None
    held: dict[str, int]
    consents: int = 0
    consents_since: datetime | None = None
    revocations: int = 0
    revocations_since: datetime | None = None
    stalled_since: datetime | None = None


_CONTROL = """
SELECT now() AS at, COALESCE(g.frozen, false) AS frozen, g.frozen_reason,
       (SELECT min(stalled_since) FROM qbo.apps) AS stalled_since,
       (SELECT max(swept_at) FROM qbo.apps) AS swept_at,
       (SELECT count(*) FROM qbo.candidates WHERE tried_at IS NULL) AS candidates,
       (SELECT COALESCE(resent_at, created_at) FROM qbo.outbox WHERE delivered_at IS NULL ORDER BY id LIMIT 1)
           AS undelivered_since,
       z.consents, z.consents_since, r.revocations, r.revocations_since
FROM (SELECT count(*) AS consents, min(used_at) AS consents_since FROM qbo.authorizations
      WHERE used_at IS NOT NULL AND finished_at IS NULL) AS z
CROSS JOIN (SELECT count(*) AS revocations, min(created_at) AS revocations_since FROM qbo.revocations) AS r
CROSS JOIN (VALUES (true)) AS always (one) LEFT JOIN qbo.control g ON true
"""


def control(db: Database) -> Control:
    """Return what the control row says, and what waits beside the connections. A missing row is not frozen."""
    row = db.execute(_CONTROL).one()
    held = db.execute("SELECT reason, count(*) AS n FROM qbo.sync_holds GROUP BY reason ORDER BY reason")
    return Control(
        row.at, row.frozen, row.frozen_reason, row.swept_at, row.candidates, row.undelivered_since,
        {each.reason: each.n for each in held},
        row.consents, row.consents_since, row.revocations, row.revocations_since, row.stalled_since,
    )  # fmt: skip
