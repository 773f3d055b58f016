"""The words of a connection's life, and the moves between its statuses that are legal."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What a person would call the connection. "Being refreshed" is a lease, not a status."""

    ACTIVE = "active"
    """Its grant worked when it was last asked."""
    SUSPECT = "suspect"
    """Intuit refused the grant once. Asked again after CONFIRM_AFTER; syncs wait quietly, nobody is told."""
    NEEDS_REAUTH = "needs_reauth"
    """The refusal was confirmed: a person must reconnect. Only this status is ever shown to a customer."""
    DISCONNECTED = "disconnected"
    """The customer or the host ended it. Its tokens are forgotten."""


MOVES: frozenset[tuple[Status, Status]] = frozenset(
    {
        (Status.ACTIVE, Status.SUSPECT),
        (Status.SUSPECT, Status.ACTIVE),
        (Status.SUSPECT, Status.NEEDS_REAUTH),
        (Status.NEEDS_REAUTH, Status.ACTIVE),
        (Status.ACTIVE, Status.DISCONNECTED),
        (Status.SUSPECT, Status.DISCONNECTED),
        (Status.NEEDS_REAUTH, Status.DISCONNECTED),
        (Status.DISCONNECTED, Status.ACTIVE),
    }
)
"""Every move that is allowed. There is none from active to needs_reauth: a verdict takes two refusals."""


def may_move(before: Status, after: Status) -> bool:
    """Tell whether a connection may go from one status to another; staying is always allowed."""
    return before == after or (before, after) in MOVES


class Hold(StrEnum):
    """Why a connection's syncs are paused. They run only while no hold stands."""

    REAUTH = "reauth"
    SUSPECT = "suspect"
    OPERATOR = "operator"
    DISCONNECTED = "disconnected"


class Outcome(StrEnum):
    """What one attempt came to, in the ledger and in task results."""

    REFRESHED = "refreshed"
    DEFERRED = "deferred"
    BLOCKED = "blocked"
    SUSPECT = "suspect"
    NEEDS_REAUTH = "needs_reauth"
    UNREADABLE = "unreadable"
    ABANDONED = "abandoned"
    """The worker died or froze before it could say; written by the attempt that found the dead lease."""
    SKIPPED = "skipped"
    """Nothing was claimed; only in task results, never in the ledger."""


class Authorized(StrEnum):
    """What became of a consent, in `authorizations`."""

    CONNECTED = "connected"
    REFUSED = "refused"
    """The code or the company was refused: nothing was stored."""
    LOST = "lost"
    """The code was presented and its answer never reached us: the person must consent again."""


class Ending(StrEnum):
    """What became of a request to disconnect."""

    DISCONNECTED = "disconnected"
    LEFT = "left"
    """One of several external ids is gone; the connection stays for the others."""
    SKIPPED = "skipped"


class Event(StrEnum):
    """Types of the rows in `outbox`."""

    NEEDS_REAUTH = "connection.needs_reauth"
    RECOVERED = "connection.recovered"
    RECONNECTED = "connection.reconnected"
    DISCONNECTED = "connection.disconnected"
    EXPIRING = "connection.expiring"
    """The grant's five years end: told once at each of `policy.expiry.NOTICES_DAYS` before."""
    SYNC_PAUSED = "sync.paused"
    SYNC_RESUMED = "sync.resumed"
    APP_BLOCKED = "app.blocked"
    APP_UNBLOCKED = "app.unblocked"
    GUARD_TRIPPED = "guard.tripped"
    ROW_UNREADABLE = "row.unreadable"
    DATABASE_CHANGED = "database.changed"
    REFRESHES_STALLED = "refreshes.stalled"
    SECOND_WRITER = "second_writer.seen"
    """Somebody else rotates a grant of ours: an old system that still runs, or a copy."""


OPERATORS: frozenset[Event] = frozenset(
    {
        Event.APP_BLOCKED,
        Event.APP_UNBLOCKED,
        Event.GUARD_TRIPPED,
        Event.ROW_UNREADABLE,
        Event.DATABASE_CHANGED,
        Event.REFRESHES_STALLED,
        Event.SECOND_WRITER,
    }
)
"""Events for those who run the worker; the others are for the host and its customers."""
