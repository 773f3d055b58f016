"""The refresh of one connection: claim, check, send, escrow, save. Two short transactions, and none during HTTP.

This is the only code that presents a refresh token to Intuit. What it changes is decided in `worker.policy`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy.exc import DBAPIError

from qbo_refresh.sealing import Field, Keyring, Lookup, Place, Unsealable
from qbo_refresh.status import Outcome
from worker import clock, log, policy
from worker.attempt import IF_DUE, Claim, Freshness, Received, Record, Saved, SealedGrant, Source, Trigger
from worker.errors import ClientRejected, Facts, GrantRejected, IntuitError, LeaseSpent, OutcomeUnknown, Unavailable
from worker.intuit import Gate
from worker.signals import deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qbo_refresh.secret import Secret
    from worker.attempt import Candidate, Escrow, Store
    from worker.intuit import TokenEndpoint
    from worker.policy import Pace
    from worker.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """One of an app's secrets.

    Attributes:
        name: `current` or `previous`, as the ledger says it.
    """

    name: str
    secret: Secret
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class Refresher:
    """What an attempt works with: its adapters, its keys and its pace.

    Attributes:
        secrets: App id → its client secrets, the one in use first.
        worker: This process's name in the ledger.
        may_claim: False while a save of this process waits for the database, or the process is stopping.
        boottime: The clock that the attempt measures itself with.
    """

    store: Store
    escrow: Escrow
    intuit: TokenEndpoint
    keyring: Keyring
    lookup: Lookup
    pace: Pace
    secrets: Mapping[int, tuple[ClientSecret, ...]]
    worker: str
    may_claim: Callable[[], bool]
    jitter: Callable[[], float] = random.random
    boottime: Callable[[], float] = clock.boottime

    def gate(self, opened_at: float) -> Gate:
        """Return what is asked at the first byte of each POST of an attempt that began then."""
        return Gate(opened_at, self.pace.lease, self.pace.deadline, self.pace.slack, boottime=self.boottime)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request to refresh; safe to store and to show.

    Attributes:
        rotated: Whether the refresh token's value changed; None unless refreshed.
        once_more: Only the previous token stands against a verdict: it is asked about at once.
    """

    connection_id: int
    outcome: Outcome
    reason: str | None = None
    rotated: bool | None = None
    once_more: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the task's result."""
        return {
            "connection_id": self.connection_id,
            "outcome": str(self.outcome),
            "reason": self.reason,
            "rotated": self.rotated,
        }


@dataclass(frozen=True, slots=True)
class _Presentable:
    """A token that an attempt may present."""

    sealed: bytes
    fingerprint: bytes
    candidate_id: int | None = None


@dataclass(slots=True)
class _Tally:
    """What happened on the way: posts made, the secret used last, candidates disposed of."""

    posts: int = 0
    secret: ClientSecret | None = None
    facts: Facts = field(default_factory=Facts)
    presented: _Presentable | None = None
    disposed: tuple[int, ...] = ()
    escrow_silent: bool = False


def refresh(refresher: Refresher, connection_id: int, *, trigger: Trigger, freshness: Freshness = IF_DUE) -> Result:
    """Refresh one connection if it may and should be.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be asked; nothing was sent to Intuit.
    """
    result = _once(refresher, connection_id, trigger=trigger, freshness=freshness)
    if not result.once_more:
        return result
    # An attempt of its own, with a lease of its own; whoever takes the row first comes to the same.
    last = _once(refresher, connection_id, trigger=trigger, freshness=IF_DUE)
    return result if last.outcome is Outcome.SKIPPED else last


def _once(refresher: Refresher, connection_id: int, *, trigger: Trigger, freshness: Freshness) -> Result:
    if not refresher.may_claim():
        return Result(connection_id, Outcome.SKIPPED, "busy_saving")
    claim = refresher.store.claim(connection_id, lease_id=uuid4(), trigger=trigger, freshness=freshness)
    if claim is None:
        # A sweep's message is a hint that came too late; only a caller who waits wants to know why.
        reason = "not_claimed" if freshness is IF_DUE else refresher.store.why_not(connection_id, freshness=freshness)
        return Result(connection_id, Outcome.SKIPPED, reason)
    with deferred():
        result = _attempt(refresher, claim)
    # A million ordinary successes a day are in the ledger; a log is for the others.
    ordinary = trigger is Trigger.SWEEP and result.outcome is Outcome.REFRESHED
    (log.debug if ordinary else log.info)(
        "refresh",
        connection_id=connection_id,
        outcome=result.outcome,
        reason=result.reason,
        rotated=result.rotated,
        attempt=str(claim.lease_id),
    )
    return result


def _attempt(refresher: Refresher, claim: Claim) -> Result:
    tally = _Tally()
    if claim.is_foreign:
        refresher.store.report_second_writer(claim)
    candidates = _candidates(refresher, claim, tally)
    try:
        if claim.is_new_epoch and tally.escrow_silent:
            # The row may be an old copy, and what came after it would be there.
            raise Unavailable("escrow_silent")
        answer = _present(refresher, claim, candidates, tally)
    except IntuitError as error:
        return _conclude(refresher, claim, error, tally, untried=_untried(claim, candidates, tally))
    except Unsealable as error:
        log.warning("row.does_not_open", connection_id=claim.connection_id, key_missing=error.key_missing)
        decision = policy.unreadable(claim.standing)
        refresher.store.conclude(claim, decision, _record(refresher, claim, tally))
        return Result(claim.connection_id, decision.outcome, decision.reason)
    return _save(refresher, claim, answer, tally, seen=tuple(each.candidate_id for each in candidates))


def _candidates(refresher: Refresher, claim: Claim, tally: _Tally) -> list[Candidate]:
    """Return the untried candidates, with what the escrow holds if an earlier attempt may have left something there."""
    if claim.standing.in_doubt or claim.standing.suspect_since is not None or claim.is_new_epoch:
        found = refresher.escrow.find(
            claim.connection_id,
            grant_number=claim.grant_number,
            base_version=claim.token_version,
            is_far=claim.is_new_epoch,
        )
        tally.escrow_silent = found is None
        for received in found or ():
            refresher.store.add_candidate(received, Source.ESCROW)
        if found:
            return list(refresher.store.candidates(claim))
    return list(refresher.store.candidates(claim)) if claim.has_candidates else []


def _untried(claim: Claim, candidates: list[Candidate], tally: _Tally) -> int:
    """Return how many tokens may still be live. An escrow that does not answer may hold one, for a day at most."""
    since = claim.standing.suspect_since or claim.claimed_at
    unknown = tally.escrow_silent and claim.claimed_at - since < policy.DAY
    return sum(candidate.candidate_id not in tally.disposed for candidate in candidates) + unknown


def _in_order(claim: Claim, candidates: list[Candidate]) -> Iterator[_Presentable]:
    """Yield what to present: candidates as new as the row's token, that, then older ones; received last first.

    On a provider that still honours an old token, the loser of a race holds the live one: no verdict before it is
    tried. On one that punishes reuse, an older token is only presented once the row's was refused anyway; and of two
    that are as new as the row's, the one of the later version first: it has replaced the other.
    """
    latest_first = sorted(candidates, key=lambda candidate: candidate.base_version, reverse=True)
    for candidate in latest_first:
        if candidate.base_version >= claim.token_version:
            yield _Presentable(candidate.refresh_token, candidate.fingerprint, candidate.candidate_id)
    if claim.refresh_token is not None and claim.fingerprint is not None:
        yield _Presentable(claim.refresh_token, claim.fingerprint)
    for candidate in latest_first:
        if candidate.base_version < claim.token_version:
            yield _Presentable(candidate.refresh_token, candidate.fingerprint, candidate.candidate_id)


def _present(refresher: Refresher, claim: Claim, candidates: list[Candidate], tally: _Tally) -> TokenSet:
    """Present one token after the other until one is answered with anything but a refusal of the grant."""
    refused: GrantRejected | None = None
    place = Place(claim.environment, claim.connection_id, claim.grant_number, Field.REFRESH_TOKEN)
    for presentable in _in_order(claim, candidates):
        token = _opened(refresher, claim, presentable, place, tally)
        if token is None:
            continue
        tally.presented = presentable
        try:
            answer = _ask(refresher, claim, token, tally)
        except GrantRejected as error:
            if error.perhaps_our_keys:
                raise
            refused = error
            if presentable.candidate_id is not None:
                refresher.store.refuse(presentable.candidate_id)
                tally.disposed += (presentable.candidate_id,)
        else:
            if presentable.candidate_id is not None:
                tally.disposed += (presentable.candidate_id,)
            return answer
    if refused is None:
        raise Unsealable(key_id=None, key_missing=False)
    raise refused


def _opened(
    refresher: Refresher, claim: Claim, presentable: _Presentable, place: Place, tally: _Tally
) -> Secret | None:
    """Open a sealed token. A candidate that does not open is None: it must not be in the way of the row's own token.

    One whose key is missing stays untried, so that no verdict comes while the key is away.
    """
    try:
        return refresher.keyring.open(presentable.sealed, place)
    except Unsealable as error:
        if presentable.candidate_id is None:
            raise
        log.error("candidate.unreadable", connection_id=claim.connection_id, key_missing=error.key_missing)
        if not error.key_missing:
            refresher.store.refuse(presentable.candidate_id)
            tally.disposed += (presentable.candidate_id,)
        return None


def _ask(refresher: Refresher, claim: Claim, token: Secret, tally: _Tally) -> TokenSet:
    """Present one token with one secret after the other until one of them is not refused."""
    gate = refresher.gate(claim.opened_at)
    refusal: ClientRejected | None = None
    for secret in _secrets(refresher, claim):
        tally.secret = secret
        tally.posts += 1
        try:
            answer = refresher.intuit.refresh(token, client_id=claim.client_id, client_secret=secret.secret, gate=gate)
        except ClientRejected as error:
            tally.facts, refusal = error.facts, error
            refresher.store.block(claim, secret_hash=secret.secret_hash, reason=error.reason, at_once=True)
        except IntuitError as error:
            tally.facts = error.facts
            if isinstance(error, LeaseSpent) or error.reason == "unreachable":
                tally.posts -= 1
            raise
        else:
            tally.facts = answer.facts
            return answer
    raise refusal or ClientRejected("invalid_client")


def _secrets(refresher: Refresher, claim: Claim) -> list[ClientSecret]:
    mine = refresher.secrets[claim.app_id]
    return [secret for secret in mine if claim.probing or secret.secret_hash not in claim.blocked]


def _record(refresher: Refresher, claim: Claim, tally: _Tally, *, exposed_us: int | None = None) -> Record:
    return Record(
        worker=refresher.worker,
        duration_ms=round((refresher.boottime() - claim.opened_at) * 1000),
        posts=tally.posts,
        http_status=tally.facts.http_status,
        intuit_tid=tally.facts.intuit_tid,
        secret=tally.secret.name if tally.secret else None,
        secret_hash=tally.secret.secret_hash if tally.secret else None,
        exposed_us=exposed_us,
    )


def _now(refresher: Refresher, claim: Claim) -> datetime:
    """Return the database's time, as far as this attempt can tell: what it said, and what has passed here since."""
    return claim.claimed_at + timedelta(seconds=refresher.boottime() - claim.opened_at)


def _conclude(refresher: Refresher, claim: Claim, error: IntuitError, tally: _Tally, *, untried: int) -> Result:
    if isinstance(error, OutcomeUnknown) and error.salvaged is not None:
        received = _received(refresher, claim, error.salvaged)
        refresher.escrow.put(received)
        refresher.store.add_candidate(received, Source.SALVAGE)
    decision = policy.decide(
        replace(claim.standing, untried=untried),
        error,
        now=_now(refresher, claim),
        jitter=refresher.jitter(),
        pace=refresher.pace,
    )
    if decision.counts and tally.secret is not None:
        refresher.store.block(claim, secret_hash=tally.secret.secret_hash, reason=error.reason, at_once=False)
    written = refresher.store.conclude(claim, decision, _record(refresher, claim, tally))
    if written is None:
        return Result(claim.connection_id, Outcome.DEFERRED, "overtaken")
    once_more = written.withheld == policy.Withheld.PREVIOUS
    return Result(claim.connection_id, written.outcome, written.reason, once_more=once_more)


def _received(refresher: Refresher, claim: Claim, token: Secret) -> Received:
    place = Place(claim.environment, claim.connection_id, claim.grant_number, Field.REFRESH_TOKEN)
    return Received(
        claim.connection_id,
        claim.grant_number,
        claim.token_version,
        claim.lease_id,
        refresher.keyring.seal(token, place),
        refresher.lookup.fingerprint(token),
    )


def _save(refresher: Refresher, claim: Claim, tokens: TokenSet, tally: _Tally, *, seen: tuple[int, ...]) -> Result:
    """Put the new tokens where they last. Until the first acknowledgement stands nothing here that can fail."""
    received = _received(refresher, claim, tokens.refresh_token)
    presented = tally.presented
    if presented is None:
        raise AssertionError("an answer without a question")
    exposed_us, kept = None, False
    if received.fingerprint != claim.fingerprint:
        kept = refresher.escrow.put(received)
        if kept and tokens.facts.last_byte_at is not None:
            exposed_us = round((refresher.boottime() - tokens.facts.last_byte_at) * 1_000_000)
    decision = policy.decide(
        claim.standing,
        tokens,
        now=_now(refresher, claim),
        jitter=refresher.jitter(),
        pace=refresher.pace,
        rotated=received.fingerprint != presented.fingerprint,
    )
    place = Place(claim.environment, claim.connection_id, claim.grant_number, Field.ACCESS_TOKEN)
    grant = SealedGrant(
        received=received,
        access_token=refresher.keyring.seal(tokens.access_token, place),
        access_lifetime=tokens.access_lifetime,
        refresh_lifetime=tokens.refresh_lifetime,
        hard_lifetime=decision.hard_lifetime,
        presented=_previous(claim, presented, received),
        candidate_ids=seen,
        answered_at=tokens.facts.last_byte_at,
    )
    record = _record(refresher, claim, tally, exposed_us=exposed_us)
    saved = _persist(refresher, claim, grant, decision, record)
    if saved in (Saved.SAVED, Saved.BEFORE):
        if kept:
            refresher.escrow.settle(received)
        return Result(claim.connection_id, decision.outcome, decision.reason, rotated=grant.rotated)
    return _overtaken(refresher, claim, received, saved)


def _previous(claim: Claim, presented: _Presentable, received: Received) -> tuple[bytes, bytes]:
    """Return what becomes the previous token: the one presented, or the row's if a candidate came back unchanged."""
    unchanged = presented.fingerprint == received.fingerprint
    if unchanged and claim.refresh_token is not None and claim.fingerprint is not None:
        return claim.refresh_token, claim.fingerprint
    return presented.sealed, presented.fingerprint


def _persist(
    refresher: Refresher, claim: Claim, grant: SealedGrant, decision: policy.Decision, record: Record
) -> Saved:
    try:
        return refresher.store.save(claim, grant, decision, record)
    except DBAPIError as error:
        log.error("save.refused", connection_id=claim.connection_id, error=type(error.orig).__name__)
    try:
        return refresher.store.save_bare(claim, grant)
    except DBAPIError as error:
        log.error("save.refused_bare", connection_id=claim.connection_id, error=type(error.orig).__name__)
    refresher.store.add_candidate(grant.received, Source.REFUSED_SAVE)
    return Saved.OVERTAKEN


def _overtaken(refresher: Refresher, claim: Claim, received: Received, saved: Saved) -> Result:
    """Say what became of a token that lost the comparison: a candidate, or one to be revoked, or left to the escrow."""
    if saved is Saved.OVERTAKEN:
        refresher.store.add_candidate(received, Source.LATE_SAVE)
        return Result(claim.connection_id, Outcome.DEFERRED, "overtaken")
    if saved is Saved.GONE:
        # Deleted, or a restored database that does not know it yet: the escrow keeps the copy, nothing is destroyed.
        log.error("save.row_gone", connection_id=claim.connection_id)
        return Result(claim.connection_id, Outcome.DEFERRED, "deleted")
    # The save has put it among the revocations. Not revoked here: a person may just be consenting anew, and Intuit
    # may end that grant with this one; the sweep waits for that.
    return Result(claim.connection_id, Outcome.DEFERRED, "disconnected")
