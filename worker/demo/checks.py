"""The promises of the demo, each checked on the evidence. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Hold, Outcome, Status
from worker.demo.evidence import NOBODY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.demo.evidence import Call, Evidence, Row


@dataclass(frozen=True, slots=True)
class Check:
    """One promise.

    Attributes:
        name: For programs.
        words: What was found, for people.
        wrong: Connections of which it is not true.
    """

    name: str
    holds: bool
    words: str
    wrong: tuple[int, ...] = ()


def over(evidence: Evidence) -> Check:
    """Did it come to its end by itself?"""
    if evidence.died:
        words = f"ended without being asked to: {', '.join(evidence.died)}"
    elif not evidence.is_over:
        words = f"not finished: stopped after {evidence.took_s:.0f} s"
    else:
        words = f"everything settled, {evidence.took_s:.0f} s after beat was started"
    return Check("finished", evidence.is_over and not evidence.died, words)


def refreshed(evidence: Evidence) -> Check:
    """Was every connection whose grant lives refreshed once, and left as it should be?"""
    times = Counter(attempt.connection_id for attempt in evidence.attempts if attempt.outcome == Outcome.REFRESHED)
    living = [row for row in evidence.rows if not row.is_revoked]
    wrong = tuple(
        row.connection_id
        for row in living
        if times[row.connection_id] != 1 or row.status is not Status.ACTIVE or row.holds
    )
    words = f"{len(living) - len(wrong)} of {len(living)} connections with a living grant refreshed, each exactly once"
    return Check("refreshed_once", bool(living) and not wrong, words, wrong)


def tokens_agree(evidence: Evidence) -> Check:
    """Do our database and Intuit agree on every token?"""
    wrong = tuple(row.connection_id for row in evidence.rows if row.token != row.current)
    right = len(evidence.rows) - len(wrong)
    words = f"{right} of {len(evidence.rows)} refresh tokens in the database are the ones that Intuit holds as current"
    return Check("tokens_current", bool(evidence.rows) and not wrong, words, wrong)


def never_two_at_once(evidence: Evidence) -> Check:
    """Did Intuit ever see two calls at once with one refresh token?"""
    by_token: dict[str, list[Call]] = defaultdict(list)
    for call in sorted(evidence.calls, key=lambda call: call.started):
        by_token[call.presented].append(call)
    overlapping = [
        later for calls in by_token.values() for earlier, later in pairwise(calls) if later.started < earlier.ended
    ]
    words = f"{len(overlapping)} of {len(evidence.calls)} calls at Intuit met another with the same token"
    return Check("never_two_at_once", bool(evidence.calls) and not overlapping, words, _connections(overlapping))


def replaced_ones_rest(evidence: Evidence) -> Check:
    """Was a token presented that had been replaced?"""
    superseded = [call for call in evidence.calls if call.was_superseded]
    words = f"{len(superseded)} calls presented a token that had been replaced"
    return Check("replaced_tokens_rest", not superseded, words, _connections(superseded))


def revoked_are_marked(evidence: Evidence) -> Check:
    """Are the revoked grants marked, held and told of, and no others?"""
    revoked = [row for row in evidence.rows if row.is_revoked]
    unmarked = [
        row
        for row in revoked
        if row.status is not Status.NEEDS_REAUTH or row.holds != {Hold.REAUTH} or row.verdicts != 1
    ]
    accused = [row for row in evidence.rows if _is_accused(row)]
    words = (
        f"{len(revoked) - len(unmarked)} of {len(revoked)} revoked grants marked needs_reauth, syncs held,"
        f" the host told once; {len(accused)} others marked"
    )
    wrong = tuple(row.connection_id for row in [*unmarked, *accused])
    return Check("revoked_marked", bool(revoked) and not wrong, words, wrong)


def outage_is_survived(evidence: Evidence) -> Check:
    """Did calls meet the outage, and was each of them taken for in doubt?"""
    hit = [call for call in evidence.calls if call.is_outage]
    doubted = {attempt.connection_id for attempt in evidence.attempts if attempt.reason == "unknown"}
    wrong = tuple(connection_id for connection_id in _connections(hit) if connection_id not in doubted)
    words = (
        f"{len(hit)} calls met {evidence.outage_s or 0:.0f} s of outage: 503 or no answer; in doubt, asked again"
        " after the lease, none given up"
    )
    return Check("outage_survived", bool(hit) and not wrong, words, wrong)


def wrong_secret_changes_nobody(evidence: Evidence) -> Check:
    """Was the wrong secret noticed and told once, and did it cost no connection its status?"""
    blocked = {attempt.connection_id for attempt in evidence.attempts if attempt.outcome == Outcome.BLOCKED}
    told = [evidence.operators.count(event) for event in (Event.APP_BLOCKED, Event.APP_UNBLOCKED)]
    wrong = tuple(row.connection_id for row in evidence.rows if row.connection_id in blocked and _is_accused(row))
    words = (
        f"{len(blocked)} connections met {evidence.secret_s or 0:.0f} s of a wrong client secret: the app blocked,"
        f" operators told {_times(told[0])}, no connection changed"
    )
    return Check("secret_survived", bool(blocked) and told == [1, 1] and not wrong, words, wrong)


def refusals_are_not_believed(evidence: Evidence) -> Check:
    """Did `invalid_grant` to everybody end in no verdict about a living grant?"""
    hit = _connections([call for call in evidence.calls if call.is_refusal])
    wrong = tuple(row.connection_id for row in evidence.rows if row.connection_id in hit and _is_accused(row))
    tripped = evidence.operators.count(Event.GUARD_TRIPPED)
    words = (
        f"{len(hit)} connections met {evidence.refusals_s or 0:.0f} s of invalid_grant to everybody: the guard tripped"
        f" {_times(tripped)}, {len(wrong)} living grants given up"
    )
    return Check("refusals_survived", bool(hit) and not wrong, words, wrong)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _is_accused(row: Row) -> bool:
    return not row.is_revoked and (row.verdicts > 0 or row.status is not Status.ACTIVE)


def killed_are_recovered(evidence: Evidence) -> Check:
    """Was a worker killed in mid-refresh, and were its connections recovered?"""
    kill = evidence.kill
    if kill is None:
        return Check("killed_recovered", holds=False, words="no worker was killed in mid-refresh")
    name = evidence.workers.get(kill.worker, kill.worker)
    abandoned = _abandoned(evidence)
    settled = {row.connection_id for row in evidence.rows if row.is_revoked and row.status is Status.NEEDS_REAUTH}
    settled |= {attempt.connection_id for attempt in evidence.attempts if attempt.outcome == Outcome.REFRESHED}
    wrong = tuple(sorted((kill.caught - abandoned) | (abandoned - settled)))
    words = (
        f"{name} killed with -9 in mid-refresh, {len(kill.caught)} of its calls open at Intuit: {len(abandoned)}"
        f" attempts found abandoned, all recovered by others within {recovered_s(evidence) or 0:.0f} s"
    )
    return Check("killed_recovered", bool(kill.caught) and not wrong, words, wrong)


def _abandoned(evidence: Evidence) -> frozenset[int]:
    """Return the connections that the killed worker left in mid-refresh, as others found them."""
    worker = evidence.kill.worker if evidence.kill else None
    return frozenset(
        attempt.connection_id
        for attempt in evidence.attempts
        if attempt.outcome == Outcome.ABANDONED and attempt.worker == worker
    )


def recovered_s(evidence: Evidence) -> float | None:
    """Return how long after the kill the last of its connections was refreshed or found revoked; None if none was."""
    kill = evidence.kill
    if kill is None:
        return None
    ends = [
        attempt.ended_at
        for attempt in evidence.attempts
        if attempt.connection_id in _abandoned(evidence) and attempt.ended_at is not None and attempt.ended_at > kill.at
        if attempt.outcome in (Outcome.REFRESHED, Outcome.SUSPECT)
    ]
    return (max(ends) - kill.at).total_seconds() if ends else None


def books_agree(evidence: Evidence) -> Check:
    """Compare connection by connection: only an abandoned attempt could not write down that it had sent."""
    journal = Counter(call.connection_id for call in evidence.calls)
    ledger: Counter[int] = Counter()
    abandoned: Counter[int] = Counter()
    for attempt in evidence.attempts:
        ledger[attempt.connection_id] += attempt.posts or 0
        abandoned[attempt.connection_id] += attempt.outcome == Outcome.ABANDONED
    caught = evidence.kill.caught if evidence.kill else frozenset()
    wrong = tuple(
        connection_id
        for connection_id in sorted(journal.keys() | ledger.keys() | {NOBODY})
        if not (connection_id in caught) <= journal[connection_id] - ledger[connection_id] <= abandoned[connection_id]
    )
    unwritten = journal.total() - ledger.total()
    words = (
        f"{journal.total()} calls in Intuit's journal = {ledger.total()} in our ledger + {unwritten} of the killed"
        " worker, which could write no more"
    )
    return Check("books_agree", not wrong, words, wrong)


def nothing_in_clear(evidence: Evidence) -> Check:
    """Is anything in clear where it should be sealed?"""
    found = ", ".join(evidence.in_clear)
    words = (
        f"something in clear in {found}"
        if found
        else "no token, realm id, secret or key in clear in the logs and in the files of PostgreSQL and Valkey"
    )
    return Check("nothing_in_clear", not found, words)


def _connections(calls: Iterable[Call]) -> tuple[int, ...]:
    return tuple(sorted({call.connection_id for call in calls}))
