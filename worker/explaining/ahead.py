"""What comes next and when: why a claim would not go now, and what stands between a suspect and a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qbo_refresh.status import Status
from worker import policy
from worker.errors import GrantRejected
from worker.explaining.past import WITHHELD
from worker.moments import exactly, long, when
from worker.policy import Guard, Standing, Withheld
from worker.policy.expiry import NOTICES_DAYS, Clocks
from worker.policy.verdicts import GUARD_PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from worker.policy import Evidence, Pace
    from worker.store.history import Row


@dataclass(frozen=True, slots=True)
class Prospect:
    """What decides what comes next.

    Attributes:
        why_not: In a word why a claim would come to nothing now (`store.claims.why_not`).
        verdict_at: When a suspect that is refused again could be marked, if nothing stood against it; None otherwise.
        against: What stands against that, as far as it can be told now.
    """

    row: Row
    why_not: str
    evidence: Evidence
    pace: Pace
    verdict_at: datetime | None = None
    against: tuple[Withheld, ...] = ()


_LIFTED: dict[Withheld, dict[str, Any]] = {
    Withheld.CANDIDATE: {"untried": False},
    Withheld.REFUSED_ONCE: {"candidate_refused_at": None},
    Withheld.EPOCH: {"epoch_since": None},
    Withheld.GUARD: {"guard": Guard()},
    Withheld.WITNESS: {"witness": True},
    Withheld.PREVIOUS: {"previous_untried": False},
}


def against(row: Row, why_not: str, evidence: Evidence, *, pace: Pace) -> Prospect:
    """Ask policy itself what a refusal at the next possible moment would come to, one obstacle after the other."""
    prospect = Prospect(row, why_not, evidence, pace)
    if row.status != Status.SUSPECT or row.suspect_since is None:
        return prospect
    moment = max(row.at, row.due_at or row.at, row.suspect_since + pace.confirm_after)
    standing = Standing(
        row.id,
        Status.SUSPECT,
        failures=row.failures,
        in_doubt=row.in_doubt,
        suspect_since=row.suspect_since,
        reason=row.last_reason,
        clocks=Clocks(row.refresh_expires_at, row.hard_expires_at, row.token_obtained_at, row.expiry_told_days),
    )
    proposed = policy.decide(standing, GrantRejected(), now=moment, jitter=0, pace=pace)
    then, found = replace(evidence, now=moment), [Withheld.LEASE] if row.in_doubt and row.is_leased else []
    while (word := policy.judge(proposed, standing, then, pace=pace).withheld) is not None:
        withheld = Withheld(word)
        found.append(withheld)
        then = replace(then, **_LIFTED[withheld])
    return replace(prospect, verdict_at=moment, against=tuple(found))


def ahead(prospect: Prospect) -> Iterator[str]:
    """Yield what comes next, in sentences."""
    row = prospect.row
    yield _next(prospect)
    if row.status == Status.SUSPECT and prospect.verdict_at is not None:
        yield from _verdict(prospect)
    if row.status == Status.NEEDS_REAUTH and row.due_at is not None:
        yield "If Intuit takes the token then, it is active again, its syncs resume and the host is told."
    if prospect.evidence.untried and row.status != Status.SUSPECT:
        yield "A token that may be the live one is presented with the next attempt."
    yield from _ends(row)


def _next(prospect: Prospect) -> str:  # noqa: C901, PLR0911, PLR0912  # one sentence for each word of `why_not`
    row, due = prospect.row, prospect.row.due_at
    match prospect.why_not:
        case "no_control_row":
            return "Nothing is sent: the row of the table control is missing (`qbo-refresh doctor`)."
        case "frozen" if row.everything_frozen:
            why = row.frozen_reason or "no reason given"
            if not row.frozen:
                return f"Everything is frozen ({why}): `qbo-refresh thaw --all` ends it."
            return (
                f"Everything is frozen ({why}), and this connection by itself, too:"
                f" `qbo-refresh thaw --all` and `qbo-refresh thaw {row.id}` end that together."
            )
        case "frozen":
            return f"It is frozen: `qbo-refresh thaw {row.id}` ends it."
        case "database_changed":
            return "Nothing is sent: the database has changed (`qbo-refresh doctor` tells how)."
        case Status.DISCONNECTED:
            return "Nothing: it was ended."
        case Status.NEEDS_REAUTH:
            return "It had its second chances and is not asked again. Reconnecting helps."
        case Status.ACTIVE | Status.SUSPECT:
            return "No refresh is planned: nothing comes by itself (`qbo-refresh refresh` asks once)."
        case "no_keys":
            return "Its app's client secret is not in this configuration: a process that has it refreshes it."
        case "not_due" if due is not None and row.status == Status.NEEDS_REAUTH:
            return f"A second chance: it is asked once more at {when(due, row.at)}."
        case "not_due" if due is not None:
            return f"Its next refresh is at {when(due, row.at)}."
        case "throttled" if row.throttled_until is not None:
            return f"Intuit throttles the app: nothing goes before {when(row.throttled_until, row.at)}."
        case "blocked":
            probe = f", next at {when(row.probe_at, row.at)}" if row.probe_at and row.probe_at > row.at else ""
            return (
                f"Intuit refuses the app's client secret: one connection at a time tries it{probe} (`qbo-refresh app`)."
            )
        case "in_progress" if row.is_leased:
            return "An attempt is under way now."
        case "in_progress":
            return (
                "It is due: the next sweep takes it." if row.queued_until is None else "It is due, and queued already."
            )
        case _ if row.in_doubt and row.is_leased and row.leased_until is not None:
            return (
                f"In doubt: the same token is presented again when the lease is over, {when(row.leased_until, row.at)}."
            )
        case reason:
            pause = row.not_before or row.leased_until
            until = f" until {when(pause, row.at)}; then it is asked again" if pause is not None else ""
            return f"It pauses after its last attempt ({reason}){until}. No caller shortens that."


def _verdict(prospect: Prospect) -> Iterator[str]:
    if prospect.verdict_at is None:
        return
    moment = when(prospect.verdict_at, prospect.row.at)
    if not prospect.against:
        yield f"If Intuit refuses it then, {moment}, it becomes needs_reauth: nothing stands against that."
        return
    yield f"A refusal then, {moment}, makes no verdict yet. Against it stands:"
    for withheld in prospect.against:
        yield f"- {WITHHELD[withheld]}{_until(withheld, prospect)}"


def _until(withheld: Withheld, prospect: Prospect) -> str:
    row, evidence, pace = prospect.row, prospect.evidence, prospect.pace
    since = row.suspect_since or row.at
    match withheld:
        case Withheld.LEASE:
            return f": {long(pace.confirm_after)} are left for that"
        case Withheld.REFUSED_ONCE:
            again = (evidence.candidate_refused_at or row.at) + pace.confirm_after
            return f"; its second refusal counts from {when(again, row.at)}"
        case Withheld.EPOCH:
            end = policy.waits_until(evidence.epoch_since, evidence.guard, now=row.at)
            return f"; until {when(end, row.at)}, or `qbo-refresh guard release`" if end else ""
        case Withheld.GUARD:
            alone = since + GUARD_PATIENCE
            return f"; until `qbo-refresh guard release`, or {exactly(alone)} if others work by then"
        case Withheld.WITNESS:
            return f"; until one works, or {when(since + pace.confirm_alone_after, row.at)}"
        case Withheld.CANDIDATE | Withheld.PREVIOUS:
            return ": it is presented first"


def _ends(row: Row) -> Iterator[str]:
    if row.hard_expires_at is None or row.status == Status.DISCONNECTED:
        return
    left = row.hard_expires_at - row.at
    inferred = " (inferred, not said by Intuit)" if row.hard_expires_inferred else ""
    if left.days < 0:
        yield f"The grant's five years are over{inferred}: only a reconnect helps."
        return
    if left.days <= max(NOTICES_DAYS):
        still = ", ".join(str(days) for days in reversed(NOTICES_DAYS) if days < left.days)
        yield (
            f"Its grant ends in {left.days} days{inferred}, whatever is done: the customer must reconnect by then."
            + (f" The host is told again {still} days before." if still else "")
        )
