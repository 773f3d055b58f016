"""How a connection stands as a host sees it, and what that means for who wants a token. Pure: it asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from qbo_refresh.errors import SyncPaused, TemporarilyUnavailable
from qbo_refresh.status import Hold, Status

if TYPE_CHECKING:
    from uuid import UUID

ONCE_IN = timedelta(minutes=1)  # at most one refresh in it that a host has asked for, for each connection
SHORTEST = timedelta(seconds=30)  # less than this is not worth handing out
FROZEN_FOR = timedelta(minutes=5)  # when to ask again where a person must act first
NOTHING = timedelta(0)


@dataclass(frozen=True, slots=True)
class Standing:
    """A connection's row, durations by the database's clock.

    Attributes:
        realm_id: Sealed.
        access_token: Sealed; None if there is none.
        left: How long the access token still lives; negative once it is dead.
        pause: Until when nobody may refresh it; None or negative if somebody may.
        since_attempt: How long ago the last attempt began; None if there was none.
        holds: Why its syncs are paused.
    """

    connection_id: int
    environment: str
    status: Status
    grant_number: int
    version: int
    realm_id: bytes
    access_token: bytes | None = None
    expires_at: datetime | None = None
    left: timedelta | None = None
    since_refresh: timedelta | None = None
    pause: timedelta | None = None
    pause_reason: str = ""
    frozen: bool = False
    lease_id: UUID | None = None
    since_attempt: timedelta | None = None
    attempt_began_at: datetime | None = None
    holds: tuple[str, ...] = ()

    def lives(self, at_least: timedelta = NOTHING) -> bool:
        """Tell whether there is an access token with more than so much time left."""
        return self.access_token is not None and self.left is not None and self.left > at_least

    def is_fresh(self, min_ttl: timedelta) -> bool:
        """Tell whether nothing better is to be had: enough time left, or renewed just now."""
        if self.since_refresh is not None and self.since_refresh < ONCE_IN and self.lives():
            return True
        return self.lives(min_ttl)

    def check_syncable(self, *, apart_from: frozenset[str] = frozenset()) -> None:
        """Return if the connection's syncs may run.

        Raises:
            SyncPaused: A hold stands that is not one of `apart_from`, or the status says so by itself.
        """
        standing = set(self.holds)
        if self.status is Status.NEEDS_REAUTH:
            standing.add(Hold.REAUTH)
        if self.status is Status.DISCONNECTED:
            standing.add(Hold.DISCONNECTED)
        if self.status is Status.SUSPECT:
            standing.add(Hold.SUSPECT)
        if standing - apart_from:
            raise SyncPaused(self.connection_id, sorted(standing - apart_from))

    def check_refreshable(self) -> None:
        """Return if asking for a refresh now could lead to one.

        Raises:
            TemporarilyUnavailable: It could not: frozen, or a pause binds everybody.
        """
        if self.frozen:
            raise self.unavailable("frozen", FROZEN_FOR)
        if self.pause is not None and self.pause > NOTHING:
            raise self.unavailable(self.pause_reason, self.pause)

    def unavailable(self, reason: str, retry_after: timedelta) -> TemporarilyUnavailable:
        """Return the error that says so."""
        return TemporarilyUnavailable(reason, max(1.0, retry_after.total_seconds()), self.connection_id)

    def has_ended_since(self, before: Standing) -> bool:
        """Tell whether an attempt that was seen, or began meanwhile, is over. Either may have been read first."""
        if self.attempt_began_at is None or self.lease_id is not None:
            return False
        if before.attempt_began_at is None or self.attempt_began_at > before.attempt_began_at:
            return True
        return self.attempt_began_at == before.attempt_began_at and before.lease_id is not None

    def marks(self) -> tuple[object, ...]:
        """Return what is different once something has happened; time alone changes none of it."""
        return (
            self.version,
            self.status,
            self.lease_id,
            self.attempt_began_at,
            self.frozen,
            self.holds,
            self.pause is not None and self.pause > NOTHING,
        )
