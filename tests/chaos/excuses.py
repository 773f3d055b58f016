"""Why a token that the provider issued never reached a durable place of ours: only faults of others count. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from qbo_refresh.status import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.history import Attempt, Call, Consented, History, Kill, Put, Span

# An escrow that has failed is left alone for five seconds.
ESCROW_RESTS_S = 7.0
# What the provider does and the answer survives.
_HARMLESS = ("latency", "freeze", "override", "gzip", "lie")
_SKEW_S = 0.05
_FROZEN = "frozen past its lease after sending"
# A caller that hangs up is not heard of at the other end.
_KEEPS_OPEN = ("cut silent", "dropped", "stalled")


def why_lost(history: History, call: Call) -> str | None:
    """Return in a word why the answer to a call that rotated did not reach us; None if nothing explains it."""
    spoiled = next((fault for fault in _faults(call) if not fault.startswith(_HARMLESS)), None)
    if spoiled is not None:
        return f"spoiled by the provider: {spoiled.rpartition('-')[0]}"
    if not call.written:
        return "not written whole"
    attempt = attempt_of(history, call)
    until = _read_by(history, call)
    if any(span.where == "intuit" and span.touches(call.started, until) for span in history.spans):
        return "cut on the way"
    kill = _kill(history, call, attempt, until)
    if kill is not None:
        is_soon = kill.at <= until and _put(history, call, kill) is None
        return "killed before it was read and kept" if is_soon else "killed, and the escrow away"
    if _is_late(history, call, attempt):
        return "after the deadline"
    return None


def attempt_of(history: History, call: Call) -> Attempt | None:
    """Return the attempt that made a call: the lease allows one at a time."""
    if call.endpoint != "refresh":
        return None
    earlier = [
        attempt
        for attempt in history.attempts
        if attempt.connection_id == call.connection_id and attempt.began <= call.started + _SKEW_S
    ]
    return max(earlier, key=lambda attempt: attempt.began, default=None)


def consent_of(history: History, call: Call) -> Consented | None:
    """Return the consent whose code a call presented: one of a company at a time."""
    earlier = [
        consent
        for consent in history.consented
        if consent.connection_id == call.connection_id
        and consent.presented is not None
        and consent.presented <= call.started + _SKEW_S
    ]
    # Two clocks: one that seems to come after the call is its own only where none came before.
    return max(earlier, key=lambda each: ((each.presented or 0.0) <= call.started, each.presented or 0.0), default=None)


def pid_of(history: History, call: Call) -> int | None:
    """Return the process that made a call; None if our tables do not say."""
    made_by = attempt_of(history, call) if call.endpoint == "refresh" else consent_of(history, call)
    return None if made_by is None else number_of(made_by.worker)


def number_of(worker: str | None) -> int | None:
    """Return the process id in a worker's name; None if there is none."""
    name = (worker or "").rpartition(":")[2]
    return int(name) if name.isdecimal() else None


def frozen(history: History, pid: int | None) -> Iterator[Span]:
    """Yield when a process was frozen."""
    return (span for span in history.spans if span.what == "frozen" and pid is not None and span.pid == pid)


def _faults(call: Call) -> Iterator[str]:
    # The journal has kind:id, and the nemesis calls its faults NAME-NUMBER: a name says more than a kind.
    return (label.partition(":")[2] for label in call.faults.split(",") if label)


def _read_by(history: History, call: Call) -> float:
    """Return until when the answer may have been lost between two healthy ends: a frozen process reads it later."""
    until = call.ended + history.kept_within_s
    for span in frozen(history, pid_of(history, call)):
        if span.touches(call.started, until):
            until = max(until, span.ended + history.kept_within_s)
    return until


def _kill(history: History, call: Call, attempt: Attempt | None, until: float) -> Kill | None:
    """Return the kill that the token was lost by; a later one only together with the escrow."""
    if attempt is not None and attempt.outcome != Outcome.ABANDONED:
        return None  # it came to its end, and wrote down what it had
    pid = pid_of(history, call)
    for kill in history.kills:
        if kill.role != "worker" or kill.pid != pid or kill.at < call.started - _SKEW_S:
            continue
        put = _put(history, call, kill)
        if put is None and kill.at <= until:
            return kill
        since = call.ended - ESCROW_RESTS_S if put is None else put.at
        if _harmed(history, "valkey", since, kill.at if put is None else _asked(history, call, kill)):
            return kill
    return None


def _put(history: History, call: Call, kill: Kill) -> Put | None:
    """Return the copy of a call's token that the escrow had taken before its worker was killed."""
    return next((put for put in _puts(history, call) if put.at <= kill.at), None)


def _puts(history: History, call: Call) -> Iterator[Put]:
    place = call.connection_id, call.endpoint
    return (put for put in history.puts if (put.connection_id, put.endpoint) == place and put.at >= call.started)


def kept_within(history: History) -> float:
    """Return the longest that an answer took in this run to have its copy in the escrow, where nothing was harmed.

    No longer than a lease, after which others may ask. It is what a machine of this load needs, and not what is
    allowed: a kill before it may have met a token on its way.
    """
    longest = 0.0
    for call in history.calls:
        if not call.rotated or not call.written or call.status != HTTPStatus.OK:
            continue
        put = next(_puts(history, call), None)
        if put is None or not longest < put.at - call.ended <= history.lease_s:
            continue
        harmed = any(
            span.where in ("valkey", "intuit") and span.touches(call.started - ESCROW_RESTS_S, put.at)
            for span in history.spans
        )
        if not harmed and not any(
            span.touches(call.started, put.at) for span in frozen(history, pid_of(history, call))
        ):
            longest = put.at - call.ended
    return longest


def _asked(history: History, call: Call, kill: Kill) -> float:
    """Return when somebody had asked the escrow for what a killed worker had put there."""
    if call.endpoint != "refresh":
        consent = consent_of(history, call)
        return history.stopped if consent is None or consent.finished is None else consent.finished
    later = (
        attempt.ended or attempt.began
        for attempt in history.attempts
        if attempt.connection_id == call.connection_id and attempt.began > kill.at
    )
    return min(later, default=history.stopped)


def _harmed(history: History, where: str, began: float, ended: float) -> bool:
    return any(span.where == where and span.touches(began, ended) for span in history.spans)


def _is_late(history: History, call: Call, attempt: Attempt | None) -> bool:
    least = 0.9 * history.deadline_s
    if call.ended - call.started >= least:
        return True
    if attempt is None or attempt.ended is None or attempt.reason != "unknown":
        return False
    return attempt.ended - attempt.began >= least


def _replaced_by(history: History, call: Call) -> Call | None:
    """Return the call whose answer replaced the token that was presented; while grace lasts, not one that showed it."""
    issued = next((each for each in history.calls if each.issued == call.presented), None)
    for each in history.calls:
        is_later = issued is not None and each is not issued and each.started >= issued.started
        if each.rotated and (each.presented == call.presented or (is_later and _same_grant(each, call))):
            return each
    return None


def _same_grant(one: Call, other: Call) -> bool:
    return (one.connection_id, one.endpoint) == (other.connection_id, other.endpoint)


def why_two_at_once(history: History, call: Call) -> str | None:
    """Return why a call met an earlier one with its token; None if nothing excuses it, as within the earlier's lease.

    The earlier is still being answered after its lease, and nobody hangs up: who would is frozen, or what lies between
    keeps the line open.
    """
    found = None
    for earlier in _open_at(history, call):
        found = _why_open(history, earlier) if call.started >= _leased_until(history, earlier) else None
        if found is None:
            return None
    return found


def _open_at(history: History, call: Call) -> Iterator[Call]:
    return (
        each
        for each in history.calls
        if each is not call and each.presented == call.presented and each.started <= call.started < each.ended
    )


def _why_open(history: History, call: Call) -> str | None:
    if _frozen_past_its_lease(history, call):
        return _FROZEN
    leased_until = _leased_until(history, call)
    if any(
        span.where == "intuit" and span.what in _KEEPS_OPEN and span.touches(call.started, leased_until)
        for span in history.spans
    ):
        return "kept open on the way"
    return None


def _leased_until(history: History, call: Call) -> float:
    attempt = attempt_of(history, call)
    return (call.started if attempt is None else attempt.began) + history.lease_s - _SKEW_S


def _frozen_past_its_lease(history: History, call: Call) -> bool:
    leased_until = _leased_until(history, call)
    return any(
        span.touches(call.started, leased_until) and span.ended >= leased_until
        for span in frozen(history, pid_of(history, call))
    )


def why_asked_again(history: History, call: Call) -> str | None:
    """Return why a replaced token was presented to a provider that punishes it; None if nothing excuses it.

    Either the answer that replaced it did not reach us, or who had it was frozen past its lease.
    """
    replaced_by = _replaced_by(history, call)
    if replaced_by is None:
        return None
    attempt, leased_until = attempt_of(history, replaced_by), _leased_until(history, replaced_by)
    if _frozen_past_its_lease(history, replaced_by):
        return _FROZEN
    put = next(_puts(history, replaced_by), None)
    if put is not None and put.at >= leased_until:
        return "stood still past its lease after sending"  # nobody stopped it but a machine that is too busy
    if put is not None and _waits_to_save(history, attempt, call) and _harmed(history, "valkey", put.at, call.started):
        return "the save had to wait, and the escrow away"
    return why_lost(history, replaced_by)


def _waits_to_save(history: History, attempt: Attempt | None, call: Call) -> bool:
    """Whether PostgreSQL kept an attempt from saving until a later call had begun."""
    later = attempt_of(history, call)
    if attempt is None or later is None or attempt.version != later.version:
        return False
    return _harmed(history, "postgres", attempt.began, call.started)
