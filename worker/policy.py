"""When and what: decides, from one answer of Intuit's, what changes. Pure: no clock, no randomness, no database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum

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
from worker.tokens import TokenSet

DAY = timedelta(days=1)
LONGEST_BACKOFF = timedelta(hours=1)
LONGEST_THROTTLE = timedelta(minutes=15)
UNREADABLE_PAUSE = timedelta(hours=1)
SOONER, LATER = timedelta(hours=4), timedelta(hours=2)
REFUSALS_THAT_BLOCK = 3
NEAR_EXPIRY = timedelta(days=10)


@dataclass(frozen=True, slots=True)
class Pace:
    """The durations that configuration may shorten.

    Attributes:
        lease: How long one attempt owns a connection.
        confirm_after: How long a first refusal waits to be confirmed.
        backoff: The first pause after a failure; it doubles up to an hour.
    """

    lease: timedelta = timedelta(seconds=60)
    confirm_after: timedelta = timedelta(minutes=15)
    backoff: timedelta = timedelta(minutes=1)

    @property
    def deadline(self) -> timedelta:
        """Return how long one POST may take in total, DNS included: 20 s of the default lease."""
        return min(timedelta(seconds=20), self.lease / 3)

    @property
    def probe_every(self) -> timedelta:
        """Return how often one connection is let through to try a blocked secret: a minute by default."""
        return self.backoff

    @property
    def slack(self) -> timedelta:
        """Return what must be left of the lease after the deadline: 5 s of the default lease."""
        return self.lease / 12


@dataclass(frozen=True, slots=True)
class Standing:
    """What the row said when it was claimed.

    Attributes:
        in_doubt: An earlier attempt may have spent the token without our reading the answer.
        suspect_since: When this version of the token was first refused; None if it was not.
        untried: Candidates that Intuit has not yet answered, after this attempt.
        reason: The row's last reason.
    """

    connection_id: int
    status: Status
    failures: int = 0
    in_doubt: bool = False
    suspect_since: datetime | None = None
    untried: int = 0
    reason: str | None = None


class AppEffect(Enum):
    """What an answer means for every connection of the app."""

    NONE = "none"
    THROTTLE = "throttle"
    BLOCK = "block"
    COUNT = "count"
    """The same block, but only after REFUSALS_THAT_BLOCK different connections with no success between."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one answer changes.

    Attributes:
        next_refresh_in: From now; None means never.
        not_before_in: From now, binding every caller; None lifts it.
        keep_lease: The attempt is in doubt: nobody presents a token before the lease is over.
        hold: Added to the syncs' holds; None adds none.
        present_previous: The previous token becomes a candidate, so that no verdict comes before it was tried.
        throttle: How long the whole app pauses; None for not at all.
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
    present_previous: bool = False
    app_effect: AppEffect = AppEffect.NONE
    throttle: timedelta | None = None


def decide(standing: Standing, answer: TokenSet | IntuitError, *, now: datetime, jitter: float, pace: Pace) -> Decision:
    """Return what one answer of Intuit's changes.

    Args:
        standing: The row as it was claimed, less what this attempt has tried.
        answer: The tokens, or what came instead.
        now: The database's time.
        jitter: In [0, 1); lengthens a pause by up to a quarter of itself.
        pace: The configured durations.
    """
    match answer:
        case TokenSet():
            decision = Decision(
                Outcome.REFRESHED,
                "lifetimes_clamped" if answer.odd else None,
                Status.ACTIVE,
                next_refresh_in(standing.connection_id, now=now),
            )
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
                app_effect=AppEffect.BLOCK,
            )
        case RequestRejected():
            decision = replace(_again(standing, answer.reason, jitter=jitter, pace=pace), app_effect=AppEffect.COUNT)
        case OutcomeUnknown():
            decision = _in_doubt(standing, answer, jitter=jitter, pace=pace)
        case Unavailable(reason="throttled"):
            decision = replace(
                _again(standing, answer.reason, jitter=jitter, pace=pace),
                app_effect=AppEffect.THROTTLE,
                throttle=_bounded(answer.retry_after or pace.backoff),
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


def unreadable(standing: Standing) -> Decision:
    """Return what changes when a blob does not open or its key is missing: the fault is ours, the status stays."""
    return Decision(
        Outcome.UNREADABLE,
        "unreadable",
        standing.status,
        timedelta(0),
        not_before_in=UNREADABLE_PAUSE,
        failures=standing.failures,
        events=() if standing.reason == "unreadable" else (Event.ROW_UNREADABLE,),
    )


def postponed(decision: Decision, standing: Standing) -> Decision:
    """Return what a verdict becomes if a candidate turns up at the last moment: that is asked about first."""
    return replace(
        decision,
        outcome=Outcome.DEFERRED,
        reason="candidate",
        status=standing.status,
        next_refresh_in=timedelta(0),
        hold=None,
        events=(),
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
    throttle = _bounded(answer.retry_after) if answer.retry_after else None
    return replace(
        decision,
        not_before_in=max(pace.lease, decision.not_before_in or pace.lease),
        keep_lease=True,
        app_effect=AppEffect.THROTTLE if throttle else AppEffect.NONE,
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
            timedelta(0) if waits else None,
            not_before_in=UNREADABLE_PAUSE if waits else None,
            failures=standing.failures,
        )
    confirmed = standing.suspect_since is not None and now - standing.suspect_since >= pace.confirm_after
    if standing.status is Status.SUSPECT and confirmed and not standing.untried:
        return Decision(
            Outcome.NEEDS_REAUTH,
            reason,
            Status.NEEDS_REAUTH,
            None,
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
        present_previous=standing.suspect_since is None,
    )


def _bounded(pause: timedelta) -> timedelta:
    return max(timedelta(seconds=1), min(pause, LONGEST_THROTTLE))


def backoff(failures: int, *, jitter: float, pace: Pace) -> timedelta:
    """Return the pause after that many failures in a row: doubling from the first to an hour, jittered, never more."""
    doubled: timedelta = pace.backoff * 2 ** min(max(failures, 1) - 1, 12)
    return min(doubled * (1 + jitter / 4), LONGEST_BACKOFF)


def slot(connection_id: int) -> timedelta:
    """Return the connection's own time of day (UTC).

    Multiples of the golden ratio fill a circle evenly for any run of ids, so that load spreads over the day without
    anyone keeping count.
    """
    return DAY * ((connection_id * 0.6180339887498949) % 1.0)


def until_slot(connection_id: int, *, now: datetime) -> timedelta:
    """Return how long it is until the connection's own time of day next comes, less than a day."""
    now = now.astimezone(UTC)  # the database's session may be in any zone
    since_midnight = timedelta(hours=now.hour, minutes=now.minute, seconds=now.second)
    return (slot(connection_id) - since_midnight) % DAY


def next_refresh_in(connection_id: int, *, now: datetime) -> timedelta:
    """Return when to refresh after a success: in 24 h, moved by at most -4 h or +2 h towards its own time of day.

    A fleet that an outage has bunched together is spread again within five days; one that is spread stays at 24 h.
    """
    ahead = until_slot(connection_id, now=now)
    # Whichever way takes fewer days: later at two hours a day, or earlier at four.
    if ahead / LATER <= (DAY - ahead) / SOONER:
        return DAY + min(ahead, LATER)
    return DAY - min(DAY - ahead, SOONER)
