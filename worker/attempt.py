"""What one attempt to refresh knows and hands on: the claim, the tokens it may present, what it saves, its record.

Types only, between the use case and its adapters, and what the use case needs of those adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from qbo_refresh.sealing import Unsealable
    from worker.policy import Decision, Standing


class Trigger(StrEnum):
    """Who asked."""

    SWEEP = "sweep"
    ADHOC = "adhoc"
    CLI = "cli"
    HINT = "hint"
    """Intuit's Disconnect URL was visited, by whom is not known."""
    CONSENT = "consent"
    """A person reconnected: the attempt exchanged a code and presented no refresh token."""


class Source(StrEnum):
    """Where a candidate came from."""

    LATE_SAVE = "late_save"
    REFUSED_SAVE = "refused_save"
    SALVAGE = "salvage"
    ESCROW = "escrow"
    PREVIOUS = "previous"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Freshness:
    """When a caller wants no call: a sweep asks whether the row is due, anybody else how fresh it is.

    Attributes:
        max_age: Refresh unless an attempt began within it; None asks whether the row is due instead.
        min_ttl: And only if the access token lives no longer than this; None for whatever it has left.
    """

    max_age: timedelta | None = None
    min_ttl: timedelta | None = None


IF_DUE = Freshness()


@dataclass(frozen=True, slots=True)
class Keys:
    """The client secrets of one app that this process holds, by the hash that names each, the one in use first."""

    app_id: int
    secret_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on one connection, and the row as it was when it was taken.

    Attributes:
        lease_id: Names the attempt, too.
        claimed_at: The database's clock.
        opened_at: `clock.boottime()` before the claim was sent: the lease lasts at least from there.
        blocked: Hashes of this app's secrets that Intuit has refused.
        probing: This attempt is the one that tries a blocked secret (`Pace.probe_every`).
        has_candidates: There are candidates to present; read them.
        is_new_epoch: The first attempt since the database changed: the escrow may know better than the row.
        is_foreign: The row's token was written by somebody else, who has not been reported yet.
    """

    lease_id: UUID
    trigger: Trigger
    claimed_at: datetime
    opened_at: float
    app_id: int
    environment: str
    client_id: str
    grant_number: int
    token_version: int
    refresh_token: bytes | None
    fingerprint: bytes | None
    standing: Standing
    blocked: frozenset[bytes] = frozenset()
    probing: bool = False
    has_candidates: bool = False
    is_new_epoch: bool = False
    is_foreign: bool = False

    @property
    def connection_id(self) -> int:
        """Return the id that everything else calls the connection by."""
        return self.standing.connection_id


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may be the live one."""

    candidate_id: int
    base_version: int
    refresh_token: bytes
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """A refresh token that reached us, sealed, on its way to a durable place.

    Attributes:
        base_version: The row's version when the attempt that received it claimed.
    """

    connection_id: int
    grant_number: int
    base_version: int
    attempt_id: UUID
    refresh_token: bytes
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class SealedGrant:
    """What a successful answer puts into the row.

    Attributes:
        hard_inferred: `hard_lifetime` is a conclusion of ours; None if the answer says nothing new of that.
        presented: The sealed token that was accepted, and its fingerprint: it becomes the previous one if it rotated.
        candidate_ids: Candidates that this attempt has read: a success settles them all.
        answered_at: `clock.boottime()` at the answer's last byte, from which the lifetimes count.
    """

    received: Received
    access_token: bytes
    access_lifetime: timedelta | None
    refresh_lifetime: timedelta | None
    hard_lifetime: timedelta | None
    presented: tuple[bytes, bytes]
    candidate_ids: tuple[int, ...] = ()
    answered_at: float | None = None
    hard_inferred: bool | None = None

    @property
    def rotated(self) -> bool:
        """Whether the value changed."""
        return self.received.fingerprint != self.presented[1]


@dataclass(frozen=True, slots=True)
class Record:
    """The attempt's row in the ledger, less what the claim and the decision say.

    Attributes:
        secret: Which client secret was accepted or refused last: `current` or `previous`; None if none was sent.
        secret_hash: Its name; None if none was sent.
        exposed_us: Microseconds from the answer's last byte to the escrow's acknowledgement; None without one.
    """

    worker: str
    duration_ms: int
    posts: int
    http_status: int | None = None
    intuit_tid: str | None = None
    secret: str | None = None
    secret_hash: bytes | None = None
    exposed_us: int | None = None


class Saved(Enum):
    """What became of a save."""

    SAVED = "saved"
    BEFORE = "saved before"
    """An earlier try of the same save had been applied; its acknowledgement was lost."""
    OVERTAKEN = "overtaken"
    """Another version stands in the row: the token must become a candidate."""
    DISCONNECTED = "disconnected"
    """The connection was ended meanwhile: the token must be revoked and forgotten."""
    GONE = "gone"
    """The row was deleted."""


class OfApp(Protocol):
    """What says which app it is of: a claim, or a consent's callback."""

    @property
    def app_id(self) -> int:
        """Our id of it."""

    @property
    def environment(self) -> str:
        """Intuit's."""

    @property
    def client_id(self) -> str:
        """Intuit's."""


class Store(Protocol):
    """The transactions of one attempt. Each method is one, acknowledged when it returns."""

    def claim(self, connection_id: int, *, lease_id: UUID, trigger: Trigger, freshness: Freshness) -> Claim | None:
        """Take the connection's lease; None if it may not be refreshed now."""

    def why_not(self, connection_id: int, *, freshness: Freshness) -> str:
        """Say in a word why a claim came to None."""

    def candidates(self, claim: Claim) -> Sequence[Candidate]:
        """Return the candidates that no success has settled, the one received last first."""

    def add_candidate(self, received: Received, source: Source) -> None:
        """Keep a token that may be live, and make the row due now."""

    def refuse(self, candidate_id: int) -> bool:
        """Note that Intuit has refused a candidate; True if what comes after it may be presented too."""

    def block(self, claim: Claim, *, secret_hash: bytes, reason: str, at_once: bool) -> None:
        """Count a refusal of our keys; with enough of them the secret is blocked."""

    def report_unreadable(self, of: OfApp, error: Unsealable, *, connection_id: int | None) -> None:
        """Tell operators, once for each app and key, that something does not open. Changes no outcome: never raises."""

    def report_second_writer(self, claim: Claim) -> None:
        """Tell operators, once, that the row holds a token that no attempt of ours wrote."""

    def save(self, claim: Claim, grant: SealedGrant, decision: Decision, record: Record) -> Saved:
        """Put a new grant's tokens into the row if version and token are still the claimed ones."""

    def save_bare(self, claim: Claim, grant: SealedGrant) -> Saved:
        """Save the tokens alone, with unknown lifetimes."""

    def conclude(self, claim: Claim, decision: Decision, record: Record) -> Decision | None:
        """Write what a failure changes and return what was written; None if lease or version were lost."""


class Escrow(Protocol):
    """A second place for a token between Intuit's answer and the save. It may fail; the save goes on."""

    def connect(self) -> None:
        """Have this thread's line to it stand before a token comes; what fails here is met by `put`."""

    def put(self, received: Received) -> bool:
        """Keep a copy; True once it is acknowledged."""

    def settle(self, received: Received) -> None:
        """Note that the save was acknowledged: the copy is needed a day longer at most."""

    def find(
        self, connection_id: int, *, grant_number: int, base_version: int, is_far: bool = False
    ) -> Sequence[Received] | None:
        """Return the copies of tokens that came after this version, or in place of it; None if it cannot be asked.

        Args:
            connection_id: Our id of it.
            grant_number: Of this grant alone.
            base_version: The row's version.
            is_far: The row may be many versions behind: its database was restored.
        """
