"""Whether a confirmed refusal becomes a verdict: what must not stand against it. Only `decide` proposes one.

A verdict is the one mistake that a customer sees, so that every doubt withholds it and none makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from qbo_refresh.status import Outcome
from worker.policy.pace import DAY

if TYPE_CHECKING:
    from worker.policy.answers import Decision, Standing
    from worker.policy.pace import Pace

GUARD_WINDOW = timedelta(hours=1)
GUARD_PATIENCE = timedelta(hours=6)
EPOCH_WAIT = DAY


class Withheld(StrEnum):
    """What stands against a verdict, in the ledger."""

    LEASE = "lease"
    """Nobody gave the lease back before: who held it may be frozen with the live token in hand."""
    CANDIDATE = "candidate"
    """A token that may be the live one has not been tried."""
    REFUSED_ONCE = "refused_once"
    """Such a token, or the row's behind it, was refused, and not again CONFIRM_AFTER later: that may be a mistake."""
    EPOCH = "epoch"
    """The database failed over or was restored within a day: the row's token may be an old one."""
    GUARD = "guard"
    """Too many connections of the app were refused at once: that is Intuit's fault, or ours."""
    WITNESS = "witness"
    """No other connection of the app has worked since: perhaps nobody's would."""
    PREVIOUS = "previous"
    """Nothing stands against it but the previous token: it is tried before all is given up, and not earlier."""


@dataclass(frozen=True, slots=True)
class Guard:
    """An app's mass guard; None: it never was."""

    tripped_at: datetime | None = None
    released_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether verdicts pass: it never tripped, or was released since."""
        return self.tripped_at is None or (self.released_at is not None and self.released_at >= self.tripped_at)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What stands around a refusal, read under the locks of the connection's and the app's rows.

    Attributes:
        now: The database's time.
        untried: A candidate has not been answered yet.
        candidate_refused_at: When the candidate that was tried last was refused first, or the second time if the row's
            token waited for that; None if none was. The previous token, which is tried after all else, does not count.
        witness: Another connection of the app was refreshed since this one's first refusal.
        guard: The app's.
        epoch_since: When the database changed last; None if it never did.
        previous_untried: The row has a previous token that was not presented again.
        hard_expired: The five years of the grant are over, by the database's clock.
    """

    now: datetime
    untried: bool = False
    candidate_refused_at: datetime | None = None
    witness: bool = False
    guard: Guard = Guard()
    epoch_since: datetime | None = None
    previous_untried: bool = False
    hard_expired: bool = False


def judge(decision: Decision, standing: Standing, evidence: Evidence, *, pace: Pace) -> Decision:
    """Return a verdict as it is, or what it becomes while something stands against it.

    One that was given already stands; its connection is asked again soon if there is a candidate to ask about.
    """
    if not decision.is_verdict:
        if _refused_once(evidence, pace):
            return replace(decision, next_refresh_in=pace.confirm_after)
        return replace(decision, next_refresh_in=timedelta(0)) if evidence.untried else decision
    withheld = _against(standing, evidence, pace=pace)
    if withheld is None:
        return decision
    # What only waits for a token to be tried need not wait long.
    soon = withheld in (Withheld.CANDIDATE, Withheld.PREVIOUS)
    return replace(
        decision,
        outcome=Outcome.SUSPECT,
        status=standing.status,
        next_refresh_in=timedelta(0),
        not_before_in=None if soon else pace.confirm_after,
        hold=None,
        events=(),
        withheld=withheld,
        present_previous=withheld is Withheld.PREVIOUS,
    )


def _against(standing: Standing, evidence: Evidence, *, pace: Pace) -> Withheld | None:
    since = standing.suspect_since or evidence.now
    if _refused_once(evidence, pace):
        return Withheld.REFUSED_ONCE
    if evidence.untried:
        return Withheld.CANDIDATE
    if waits_until(evidence.epoch_since, evidence.guard, now=evidence.now) is not None:
        return Withheld.EPOCH
    persists = evidence.witness and evidence.now - since >= GUARD_PATIENCE
    if not (evidence.guard.is_open or evidence.hard_expired or persists):
        return Withheld.GUARD
    if not evidence.witness and evidence.now - since < pace.confirm_alone_after:
        return Withheld.WITNESS
    return Withheld.PREVIOUS if evidence.previous_untried else None


def _refused_once(evidence: Evidence, pace: Pace) -> bool:
    first = evidence.candidate_refused_at
    return first is not None and evidence.now - first < pace.confirm_after


def waits_until(epoch_since: datetime | None, guard: Guard, *, now: datetime) -> datetime | None:
    """Return when the wait after a change of the database is over; None if none stands, or it was released."""
    if epoch_since is None or now - epoch_since >= EPOCH_WAIT:
        return None
    released = guard.released_at is not None and guard.released_at >= epoch_since
    return None if released else epoch_since + EPOCH_WAIT


def guard_threshold(population: int) -> float:
    """Return how many connections of so many may become suspect within an hour: with one more, the guard trips."""
    return max(3.0, min(20.0, population * 0.05), population * 0.005)


def is_calm(guard: Guard, *, now: datetime, recent: int, standing: int, population: int) -> bool:
    """Tell whether a guard that tripped may close its episode: an hour has passed, and the numbers are ordinary again.

    Args:
        guard: It has tripped.
        now: The database's time.
        recent: How many became suspect within the last hour.
        standing: How many are suspect now.
        population: Of so many.
    """
    threshold = guard_threshold(population)
    since = guard.tripped_at or now
    return now - since >= GUARD_WINDOW and max(recent, standing) <= threshold
