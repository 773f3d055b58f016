"""The refresh of one connection: claim, check, send, escrow, save. Two short transactions, and none during HTTP.

This is the only code that presents a refresh token to Intuit. What it changes is decided in `worker.policy`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from qbo_refresh.sealing import Unsealable
from qbo_refresh.status import Outcome
from worker import log, policy
from worker.attempt import IF_DUE, Freshness, Source, Trigger
from worker.errors import IntuitError, OutcomeUnknown, Unavailable
from worker.refresh import keeping, presenting
from worker.refresh.refresher import ClientSecret, Refresher, Result
from worker.refresh.under_way import UnderWay
from worker.signals import deferred

if TYPE_CHECKING:
    from worker.attempt import Claim

__all__ = ["ClientSecret", "Refresher", "Result", "refresh"]


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
    attempt = UnderWay(refresher, claim)
    if claim.is_foreign:
        refresher.store.report_second_writer(claim)
    presenting.find_candidates(attempt)
    try:
        if claim.is_new_epoch and attempt.escrow_silent:
            # The row may be an old copy, and what came after it would be there.
            raise Unavailable("escrow_silent")
        answer = presenting.present(attempt)
    except IntuitError as error:
        return _conclude(attempt, error)
    except Unsealable as error:
        log.warning("row.does_not_open", connection_id=claim.connection_id, key_missing=error.key_missing)
        decision = policy.unreadable(claim.standing)
        refresher.store.conclude(claim, decision, attempt.record())
        refresher.store.report_unreadable(claim, error, connection_id=claim.connection_id)
        return Result(claim.connection_id, decision.outcome, decision.reason)
    return keeping.save(attempt, answer)


def _conclude(attempt: UnderWay, error: IntuitError) -> Result:
    by, claim = attempt.by, attempt.claim
    if isinstance(error, OutcomeUnknown) and error.salvaged is not None:
        received = keeping.sealed(attempt, error.salvaged)
        by.escrow.put(received)
        by.store.add_candidate(received, Source.SALVAGE)
    decision = policy.decide(
        replace(claim.standing, untried=attempt.untried),
        error,
        now=attempt.now,
        jitter=by.jitter(),
        pace=by.pace,
    )
    if decision.counts and attempt.secret is not None:
        by.store.block(claim, secret_hash=attempt.secret.secret_hash, reason=error.reason, at_once=False)
    written = by.store.conclude(claim, decision, attempt.record())
    if written is None:
        return Result(claim.connection_id, Outcome.DEFERRED, "overtaken")
    once_more = written.withheld == policy.Withheld.PREVIOUS
    return Result(claim.connection_id, written.outcome, written.reason, once_more=once_more)
