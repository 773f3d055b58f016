"""Putting new tokens where they last: escrow, save, and what becomes of those whose row went on without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from qbo_refresh.sealing import Field
from qbo_refresh.status import Outcome
from worker import log, policy
from worker.attempt import Received, Saved, SealedGrant, Source
from worker.refresh.refresher import Result

if TYPE_CHECKING:
    from qbo_refresh.secret import Secret
    from worker.attempt import Claim, Record
    from worker.refresh.under_way import Presentable, UnderWay
    from worker.tokens import TokenSet


def sealed(attempt: UnderWay, token: Secret) -> Received:
    """Seal a refresh token that reached us."""
    envelope = attempt.envelope or attempt.by.keyring.envelope(attempt.place(Field.REFRESH_TOKEN))
    return Received(
        attempt.claim.connection_id,
        attempt.claim.grant_number,
        attempt.claim.token_version,
        attempt.claim.lease_id,
        envelope.seal(token),
        attempt.by.lookup.fingerprint(token),
    )


def save(attempt: UnderWay, tokens: TokenSet) -> Result:
    """Put the new tokens where they last. Until the first acknowledgement stands nothing here that can fail."""
    by, claim, presented = attempt.by, attempt.claim, attempt.presented
    received = sealed(attempt, tokens.refresh_token)
    if presented is None:
        raise AssertionError("an answer without a question")
    exposed_us, kept = None, False
    if received.fingerprint != claim.fingerprint:
        kept = by.escrow.put(received)
        if kept and tokens.facts.last_byte_at is not None:
            exposed_us = round((by.boottime() - tokens.facts.last_byte_at) * 1_000_000)
    decision = policy.decide(
        claim.standing,
        tokens,
        now=attempt.now,
        jitter=by.jitter(),
        pace=by.pace,
        rotated=received.fingerprint != presented.fingerprint,
    )
    grant = SealedGrant(
        received=received,
        access_token=by.keyring.seal(tokens.access_token, attempt.place(Field.ACCESS_TOKEN)),
        access_lifetime=tokens.access_lifetime,
        refresh_lifetime=tokens.refresh_lifetime,
        hard_lifetime=decision.hard_lifetime,
        hard_inferred=decision.hard_inferred,
        presented=_previous(claim, presented, received),
        candidate_ids=tuple(candidate.candidate_id for candidate in attempt.candidates),
        answered_at=tokens.facts.last_byte_at,
    )
    saved = _persist(attempt, grant, decision, attempt.record(exposed_us=exposed_us))
    if saved in (Saved.SAVED, Saved.BEFORE):
        if kept:
            by.escrow.settle(received)
        return Result(claim.connection_id, decision.outcome, decision.reason, rotated=grant.rotated)
    return _overtaken(attempt, received, saved)


def _previous(claim: Claim, presented: Presentable, received: Received) -> tuple[bytes, bytes]:
    """Return what becomes the previous token: the one presented, or the row's if a candidate came back unchanged."""
    unchanged = presented.fingerprint == received.fingerprint
    if unchanged and claim.refresh_token is not None and claim.fingerprint is not None:
        return claim.refresh_token, claim.fingerprint
    return presented.sealed, presented.fingerprint


def _persist(attempt: UnderWay, grant: SealedGrant, decision: policy.Decision, record: Record) -> Saved:
    store, claim = attempt.by.store, attempt.claim
    try:
        return store.save(claim, grant, decision, record)
    except DBAPIError as error:
        log.error("save.refused", connection_id=claim.connection_id, error=type(error.orig).__name__)
    try:
        return store.save_bare(claim, grant)
    except DBAPIError as error:
        log.error("save.refused_bare", connection_id=claim.connection_id, error=type(error.orig).__name__)
    store.add_candidate(grant.received, Source.REFUSED_SAVE)
    return Saved.OVERTAKEN


def _overtaken(attempt: UnderWay, received: Received, saved: Saved) -> Result:
    """Say what became of a token that lost the comparison: a candidate, or one to be revoked, or left to the escrow."""
    connection_id = attempt.claim.connection_id
    if saved is Saved.OVERTAKEN:
        attempt.by.store.add_candidate(received, Source.LATE_SAVE)
        return Result(connection_id, Outcome.DEFERRED, "overtaken")
    if saved is Saved.GONE:
        # Deleted, or a restored database that does not know it yet: the escrow keeps the copy, nothing is destroyed.
        log.error("save.row_gone", connection_id=connection_id)
        return Result(connection_id, Outcome.DEFERRED, "deleted")
    # The save has put it among the revocations. Not revoked here: a person may just be consenting anew, and Intuit
    # may end that grant with this one; the sweep waits for that.
    return Result(connection_id, Outcome.DEFERRED, "disconnected")
