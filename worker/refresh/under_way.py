"""One attempt under way: its claim, and what has happened since."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Place
from worker import policy
from worker.attempt import Record
from worker.errors import Facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbo_refresh.sealing import Envelope
    from worker.attempt import Candidate, Claim
    from worker.refresh.refresher import ClientSecret, Refresher


@dataclass(frozen=True, slots=True)
class Presentable:
    """A token that an attempt may present."""

    sealed: bytes
    fingerprint: bytes
    candidate_id: int | None = None


@dataclass(slots=True)
class UnderWay:
    """One attempt under way.

    Attributes:
        candidates: Those that no success had settled when it began.
        escrow_silent: The escrow was asked and did not answer.
        posts: How many requests were sent.
        secret: The client secret used last.
        facts: Of the answer that came last.
        presented: The token presented last.
        disposed: Ids of the candidates that Intuit has answered.
        envelope: Made for the refresh token that the next answer brings.
    """

    by: Refresher
    claim: Claim
    candidates: Sequence[Candidate] = ()
    escrow_silent: bool = False
    posts: int = 0
    secret: ClientSecret | None = None
    facts: Facts = field(default_factory=Facts)
    presented: Presentable | None = None
    disposed: tuple[int, ...] = ()
    envelope: Envelope | None = None

    def make_ready(self) -> None:
        """Do before a request what its answer would have to wait for on the way to the escrow."""
        self.envelope = self.by.keyring.envelope(self.place(Field.REFRESH_TOKEN))
        self.by.escrow.connect()

    @property
    def untried(self) -> int:
        """How many tokens may still be live. An escrow that does not answer may hold one, for a day at most."""
        since = self.claim.standing.suspect_since or self.claim.claimed_at
        unknown = self.escrow_silent and self.claim.claimed_at - since < policy.DAY
        return sum(candidate.candidate_id not in self.disposed for candidate in self.candidates) + unknown

    @property
    def now(self) -> datetime:
        """The database's time, as far as this attempt can tell: what it said, and what has passed here since."""
        return self.claim.claimed_at + timedelta(seconds=self.by.boottime() - self.claim.opened_at)

    def place(self, part: Field) -> Place:
        """Return what a blob of the claimed grant is bound to."""
        return Place(self.claim.environment, self.claim.connection_id, self.claim.grant_number, part)

    def record(self, *, exposed_us: int | None = None) -> Record:
        """Return what the ledger says of it.

        Args:
            exposed_us: Until the copy of the new token was acknowledged; None if it was not new, or that is not known.
        """
        return Record(
            worker=self.by.worker,
            duration_ms=round((self.by.boottime() - self.claim.opened_at) * 1000),
            posts=self.posts,
            http_status=self.facts.http_status,
            intuit_tid=self.facts.intuit_tid,
            secret=self.secret.name if self.secret else None,
            secret_hash=self.secret.secret_hash if self.secret else None,
            exposed_us=exposed_us,
        )
