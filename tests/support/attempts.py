"""The steps of one attempt, taken one by one: what `worker.refresh` does between two of them is left to the test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from qbo_refresh.sealing import Field, Place
from qbo_refresh.secret import Secret
from worker import policy
from worker.attempt import IF_DUE, Claim, Freshness, Received, Record, Saved, SealedGrant, Source, Trigger
from worker.tokens import TokenSet

if TYPE_CHECKING:
    from uuid import UUID

    from worker.errors import IntuitError
    from worker.policy import Decision
    from worker.refresh import Refresher

FORCED = Freshness(max_age=timedelta(0))
NEW_TOKEN = "RT1-002-H0-made-up-for-a-test-0000000000"
ACCESS = TokenSet(
    Secret(NEW_TOKEN), Secret("eyJ.made.up"), timedelta(hours=1), timedelta(days=100), timedelta(days=1800)
)


@dataclass(frozen=True, slots=True)
class Attempts:
    """One worker's attempts."""

    by: Refresher

    def claim(self, connection_id: int, *, freshness: Freshness = IF_DUE, lease_id: UUID | None = None) -> Claim | None:
        """Take the lease, or None."""
        return self.by.store.claim(
            connection_id, lease_id=lease_id or uuid4(), trigger=Trigger.SWEEP, freshness=freshness
        )

    def claimed(self, connection_id: int, *, freshness: Freshness = IF_DUE) -> Claim:
        """Take the lease, which must be there to take."""
        claim = self.claim(connection_id, freshness=freshness)
        assert claim is not None
        return claim

    def why_not(self, connection_id: int, *, freshness: Freshness = FORCED) -> str:
        """Return why a claim comes to nothing."""
        return self.by.store.why_not(connection_id, freshness=freshness)

    def received(self, claim: Claim, token: str = NEW_TOKEN) -> Received:
        """Return a token as it is on its way to a durable place."""
        place = Place(claim.environment, claim.connection_id, claim.grant_number, Field.REFRESH_TOKEN)
        return Received(
            claim.connection_id,
            claim.grant_number,
            claim.token_version,
            claim.lease_id,
            self.by.keyring.seal(Secret(token), place),
            self.by.lookup.fingerprint(Secret(token)),
        )

    def grant(self, claim: Claim, token: str = NEW_TOKEN, *, disposed: tuple[int, ...] = ()) -> SealedGrant:
        """Return what a success that presented the row's token puts into the row."""
        assert claim.refresh_token is not None
        assert claim.fingerprint is not None
        place = Place(claim.environment, claim.connection_id, claim.grant_number, Field.ACCESS_TOKEN)
        return SealedGrant(
            self.received(claim, token),
            self.by.keyring.seal(ACCESS.access_token, place),
            ACCESS.access_lifetime,
            ACCESS.refresh_lifetime,
            ACCESS.hard_lifetime,
            (claim.refresh_token, claim.fingerprint),
            disposed,
        )

    def record(self, claim: Claim) -> Record:
        """Return the attempt's row in the ledger."""
        secret = self.by.secrets[claim.app_id][0]
        return Record("a test", 1, 1, 200, None, secret.name, secret.secret_hash)

    def decision(self, claim: Claim, answer: TokenSet | IntuitError, *, untried: int = 0) -> Decision:
        """Return what policy makes of an answer."""
        standing = replace(claim.standing, untried=untried)
        return policy.decide(standing, answer, now=claim.claimed_at, jitter=0, pace=self.by.pace)

    def save(self, claim: Claim, token: str = NEW_TOKEN, *, disposed: tuple[int, ...] = ()) -> Saved:
        """Save a success."""
        return self.by.store.save(
            claim, self.grant(claim, token, disposed=disposed), self.decision(claim, ACCESS), self.record(claim)
        )

    def save_bare(self, claim: Claim, token: str = NEW_TOKEN) -> Saved:
        """Save a success's tokens alone."""
        return self.by.store.save_bare(claim, self.grant(claim, token))

    def conclude(self, claim: Claim, error: IntuitError, *, untried: int = 0) -> bool:
        """Write a failure down."""
        written = self.by.store.conclude(claim, self.decision(claim, error, untried=untried), self.record(claim))
        return written is not None

    def keep(self, claim: Claim, token: str, source: Source = Source.LATE_SAVE) -> None:
        """Keep a token that may be live as a candidate."""
        self.by.store.add_candidate(self.received(claim, token), source)
