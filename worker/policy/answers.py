"""What one answer of Intuit's changes for its connection and its app."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from qbo_refresh.status import Event, Hold, Outcome, Status, may_move
from worker.errors import (
    ClientRejected,
    GrantRejected,
    IntuitError,
    LeaseSpent,
    OutcomeUnknown,
    RequestRejected,
    Unavailable,
)
from worker.policy import expiry
from worker.policy.pace import UNREADABLE_PAUSE, Pace, bounded_throttle
from worker.policy.schedule import backoff, next_refresh_in
from worker.policy.verdicts import Withheld
from worker.tokens import TokenSet

SECOND_CHANCES = (timedelta(hours=3), timedelta(hours=24))


@dataclass(frozen=True, slots=True)
class Standing:
    """What the row said when it was claimed.

    Attributes:
        in_doubt: An earlier attempt may have spent the token without our reading the answer.
        is_taken_over: The lease was somebody's who did not give it back: he may yet come with an answer.
        suspect_since: When this version of the token was first refused; None if it was not.
        needs_reauth_since: When the verdict was given; None if none stands.
        untried: Candidates that Intuit has not yet answered, after this attempt.
        reason: The row's last reason.
        clocks: The ends of the grant, as far as they are known.
    """

    connection_id: int
    status: Status
    failures: int = 0
    in_doubt: bool = False
    is_taken_over: bool = False
    suspect_since: datetime | None = None
    needs_reauth_since: datetime | None = None
    untried: int = 0
    reason: str | None = None
    clocks: expiry.Clocks = field(default_factory=expiry.Clocks)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one answer changes.

    Attributes:
        next_refresh_in: From now; None means never.
        not_before_in: From now, binding every caller; None lifts it.
        keep_lease: The attempt is in doubt: nobody presents a token before the lease is over.
        hold: Added to the syncs' holds; None adds none.
        withheld: What stands against the verdict that this would have been; None if it would have been none.
        present_previous: The previous token becomes a candidate, so that no verdict comes before it was tried.
        counts: Towards a block of the client secret: from REFUSALS_THAT_BLOCK different connections on.
        throttle: How long the whole app pauses; None for not at all.
        hard_lifetime: What this answer says is left of the grant's five years; None if nothing new.
        hard_inferred: Whether that is concluded and not Intuit's word; None with `hard_lifetime`.
        expiry_told_days: The notice of the grant's end that `events` holds; None if it holds none.
    """

    outcome: Outcome
    reason: str | None
    status: Status
    next_refresh_in: timedelta | None
    not_before_in: timedelta | None = None
    keep_lease: bool = False
    failures: int = 0
    hold: Hold | None = None
    events: tuple[Event, ...] = ()
    withheld: str | None = None
    present_previous: bool = False
    counts: bool = False
    throttle: timedelta | None = None
    hard_lifetime: timedelta | None = None
    hard_inferred: bool | None = None
    expiry_told_days: int | None = None

    @property
    def is_verdict(self) -> bool:
        """Whether a person would be told to reconnect; `verdicts.judge` has the last word on it."""
        return Event.NEEDS_REAUTH in self.events


def decide(
    standing: Standing,
    answer: TokenSet | IntuitError,
    *,
    now: datetime,
    jitter: float,
    pace: Pace,
    rotated: bool = False,
) -> Decision:
    """Return what one answer of Intuit's changes.

    Args:
        standing: The row as it was claimed, less what this attempt has tried.
        answer: The tokens, or what came instead.
        now: The database's time.
        jitter: In [0, 1); lengthens a pause by up to a quarter of itself.
        pace: The configured durations.
        rotated: Whether the tokens' refresh token is another one than was presented.
    """
    match answer:
        case TokenSet():
            decision = _refreshed(standing, answer, now=now, rotated=rotated)
        case GrantRejected(perhaps_our_keys=False):
            decision = _refused(standing, now=now, pace=pace)
        case GrantRejected():
            decision = _again(standing, "wrong_client", jitter=jitter, pace=pace)
        case ClientRejected():
            decision = replace(
                _again(standing, answer.reason, jitter=jitter, pace=pace),
                outcome=Outcome.BLOCKED,
                # The fault is not the connection's: it goes again as soon as the secret is mended.
                not_before_in=pace.probe_every,
                failures=standing.failures,
            )
        case RequestRejected():
            decision = replace(_again(standing, answer.reason, jitter=jitter, pace=pace), counts=True)
        case OutcomeUnknown():
            decision = _in_doubt(standing, answer, jitter=jitter, pace=pace)
        case Unavailable(reason="throttled"):
            decision = replace(
                _again(standing, answer.reason, jitter=jitter, pace=pace),
                throttle=bounded_throttle(answer.retry_after or pace.backoff),
            )
        case LeaseSpent():
            decision = Decision(
                Outcome.DEFERRED, answer.reason, standing.status, timedelta(0), failures=standing.failures
            )
        case _:
            decision = _again(standing, answer.reason, jitter=jitter, pace=pace)
    if not may_move(standing.status, decision.status):
        raise AssertionError(f"{standing.status} -> {decision.status} is not a move")
    return decision


def _refreshed(standing: Standing, answer: TokenSet, *, now: datetime, rotated: bool) -> Decision:
    clocks = standing.clocks
    ends_in = expiry.hard_lifetime(clocks, answer.refresh_lifetime, answer.hard_lifetime, now=now, rotated=rotated)
    notice = expiry.notice(clocks, ends_in, now=now)
    return Decision(
        Outcome.REFRESHED,
        "lifetimes_clamped" if answer.odd else None,
        Status.ACTIVE,
        expiry.in_time(clocks, ends_in, next_refresh_in(standing.connection_id, now=now), now=now),
        events=() if notice is None else (Event.EXPIRING,),
        hard_lifetime=ends_in,
        hard_inferred=None if ends_in is None else answer.hard_lifetime is None,
        expiry_told_days=notice,
    )


def unreadable(standing: Standing) -> Decision:
    """Return what changes when a blob does not open or its key is missing: the fault is ours, the status stays."""
    return Decision(
        Outcome.UNREADABLE,
        "unreadable",
        standing.status,
        timedelta(0),
        not_before_in=UNREADABLE_PAUSE,
        failures=standing.failures,
    )


def _again(standing: Standing, reason: str, *, jitter: float, pace: Pace) -> Decision:
    failures = standing.failures + 1
    return Decision(
        Outcome.DEFERRED,
        reason,
        standing.status,
        timedelta(0),
        not_before_in=backoff(failures, jitter=jitter, pace=pace),
        failures=failures,
    )


def _in_doubt(standing: Standing, answer: OutcomeUnknown, *, jitter: float, pace: Pace) -> Decision:
    decision = _again(standing, "unknown", jitter=jitter, pace=pace)
    throttle = bounded_throttle(answer.retry_after) if answer.retry_after else None
    return replace(
        decision,
        not_before_in=max(pace.lease, decision.not_before_in or pace.lease),
        keep_lease=True,
        throttle=throttle,
    )


def _refused(standing: Standing, *, now: datetime, pace: Pace) -> Decision:
    # After doubt the refusal is perhaps of our own making: an answer that we never read had the new token.
    reason = "answer_lost" if standing.in_doubt or standing.reason == "answer_lost" else "invalid_grant"
    if standing.status is Status.NEEDS_REAUTH:
        waits = bool(standing.untried)  # for a key that is missing here
        return Decision(
            Outcome.NEEDS_REAUTH,
            reason,
            Status.NEEDS_REAUTH,
            timedelta(0) if waits else _second_chance_in(standing, now=now),
            not_before_in=UNREADABLE_PAUSE if waits else None,
            failures=standing.failures,
        )
    confirmed = standing.suspect_since is not None and now - standing.suspect_since >= pace.confirm_after
    confirmed = confirmed and standing.status is Status.SUSPECT
    if confirmed and not standing.untried and not standing.is_taken_over:
        return Decision(
            Outcome.NEEDS_REAUTH,
            reason,
            Status.NEEDS_REAUTH,
            SECOND_CHANCES[0],
            failures=standing.failures,
            hold=Hold.REAUTH,
            events=(Event.NEEDS_REAUTH,),
        )
    return Decision(
        Outcome.SUSPECT,
        reason,
        Status.SUSPECT,
        timedelta(0),
        not_before_in=pace.confirm_after,
        failures=standing.failures,
        hold=Hold.SUSPECT,
        withheld=(Withheld.LEASE if standing.is_taken_over else Withheld.CANDIDATE) if confirmed else None,
    )


def _second_chance_in(standing: Standing, *, now: datetime) -> timedelta | None:
    """Return when a grant that was given up is asked once more, from now; None if it had both of its chances."""
    since = standing.needs_reauth_since or now
    return next((chance - (now - since) for chance in SECOND_CHANCES if now - since < chance), None)
