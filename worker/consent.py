"""What one exchange of an authorization code knows and hands on. Types only, between the use case and its store."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from qbo_refresh.sealing import authorization_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from qbo_refresh.sealing import Field, Place
    from qbo_refresh.status import Authorized
    from worker.attempt import Record


# Where the escrow has what came of a consent, in place of a connection: it is no connection's grant before it is saved,
# and grants count from 1.
NO_GRANT_YET, NO_VERSION_YET = 0, 0
CODE_LIVES = timedelta(minutes=10)  # Intuit does not say; RFC 6749 section 4.1.2 recommends ten minutes at most


@dataclass(frozen=True, slots=True)
class Callback:
    """What Intuit's redirect brought, sealed, and the app that it is for."""

    authorization_id: int
    app_id: int
    environment: str
    client_id: str
    redirect_url: str
    code: bytes = field(repr=False)
    realm_id: bytes = field(repr=False)

    def place(self, field: Field) -> Place:
        """Return where a sealed value of this authorization belongs."""
        return authorization_place(self.environment, self.authorization_id, field)


@dataclass(frozen=True, slots=True)
class Consent:
    """A lease on one authorization.

    Attributes:
        realm_hash: Of the company that the redirect named.
        claimed_at: The database's clock.
        opened_at: `clock.boottime()` before the claim was sent.
        presented_before: An attempt whose lease is over may have spent the code: it is not presented again.
        used_at: When the callback came.
        names_connection: It says itself which connection the grant is for, and that is the redirect's company. Without
            that, the company is only what a browser said.
    """

    callback: Callback
    lease_id: UUID
    realm_hash: bytes
    claimed_at: datetime
    opened_at: float
    presented_before: bool
    used_at: datetime
    names_connection: bool

    @property
    def authorization_id(self) -> int:
        """Return the id that everything else calls it by."""
        return self.callback.authorization_id


@dataclass(frozen=True, slots=True)
class NewGrant:
    """A new consent's tokens, sealed for the connection that gets them.

    Attributes:
        access_token: None for a refresh token that was all that could be rescued: the row is then due now.
        answered_at: `clock.boottime()` at the answer's last byte; None if it is not known.
    """

    realm_id: bytes
    refresh_token: bytes
    fingerprint: bytes
    next_refresh_in: timedelta
    access_token: bytes | None = None
    access_lifetime: timedelta | None = None
    refresh_lifetime: timedelta | None = None
    hard_lifetime: timedelta | None = None
    answered_at: float | None = None


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What became of one request to exchange; safe to log and to show.

    Attributes:
        outcome: None while it is not finished; `reason` says in a word what it waits for.
        connection_id: The connection that got the grant; None without one.
        other_connection_id: Whose company it was instead of the expected one; None if nobody's here.
    """

    authorization_id: int
    outcome: Authorized | None
    reason: str | None = None
    connection_id: int | None = None
    other_connection_id: int | None = None


class Installed(Enum):
    """What became of putting a new grant into the tables."""

    CONNECTED = "connected"
    BEFORE = "connected before"
    """An earlier try of the same had been applied; its acknowledgement was lost."""
    SUPERSEDED = "superseded"
    """A later consent to the same company is there: it is connected by that one, and this dead grant is dropped."""
    WRONG_REALM = "wrong realm"
    ENDED = "ended"
    """The connection was disconnected meanwhile: the token waits in `revocations`."""
    GONE = "gone"
    """The authorization's row is not there."""


class ConsentStore(Protocol):
    """The transactions of one exchange. Each method is one, acknowledged when it returns."""

    def callback(self, authorization_id: int) -> Callback | None:
        """Return what the redirect brought; None if it brought nothing yet, or is finished."""

    def standing(self, authorization_id: int) -> Exchanged:
        """Return where an authorization stands."""

    def claim(self, callback: Callback, *, lease_id: UUID, realm_hash: bytes) -> Consent | None:
        """Take the authorization's lease; None if it must not be exchanged, or not now."""

    def release(
        self, consent: Consent, *, reason: str, pause: timedelta, presented: bool, throttles: bool = False
    ) -> None:
        """Give the lease back; the code was not spent unless `presented`. With `throttles` the whole app pauses."""

    def block(self, consent: Consent, *, secret_hash: bytes, reason: str) -> None:
        """Block a client secret that Intuit has refused: every connection of the app would meet the same."""

    def finish(self, consent: Consent, outcome: Authorized, reason: str) -> None:
        """Write that no grant comes of it, and forget code and realm id."""

    def reject(self, authorization_id: int, reason: str) -> None:
        """The same for one that cannot even be claimed."""

    def install(self, consent: Consent, seal: Callable[[int, int], NewGrant], record: Record) -> Installed:
        """Put the new grant over the old one, or make the connection."""
