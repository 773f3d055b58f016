"""Why a token that the provider issued never reached a durable place of ours: only faults of others count. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.status import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.history import Attempt, Call, History, Kill, Span

# From the answer's last byte until a copy is kept: some milliseconds, but thirty processes share these cores, and tasks
# were seen to stand still for most of a second.
KEPT_WITHIN_S = 1.0
# An escrow that has failed is left alone for five seconds.
ESCROW_RESTS_S = 7.0
# What the provider does and the answer survives.
_HARMLESS = ("latency", "freeze", "override", "gzip", "lie")
_SKEW_S = 0.05


def why_lost(history: History, call: Call) -> str | None:
    """Return in a word why the answer to a call that rotated did not reach us; None if nothing explains it."""
    spoiled = next((fault for fault in _faults(call) if not fault.startswith(_HARMLESS)), None)
    if spoiled is not None:
        return f"spoiled by the provider: {spoiled.rpartition('-')[0]}"
    if not call.written:
        return "not written whole"
    attempt = attempt_of(history, call)
    until = _read_by(history, call, attempt)
    if any(span.where == "intuit" and span.touches(call.started, until) for span in history.spans):
        return "cut on the way"
    kill = _kill(history, call, attempt, until)
    if kill is not None:
        return "killed before it was read and kept" if kill.at <= until else "killed, and the escrow away"
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


def pid_of(attempt: Attempt | None) -> int | None:
    """Return the process of an attempt; None if the ledger does not say."""
    name = attempt.worker.rpartition(":")[2] if attempt is not None and attempt.worker else ""
    return int(name) if name.isdecimal() else None


def frozen(history: History, pid: int | None) -> Iterator[Span]:
    """Yield when a process was frozen."""
    return (span for span in history.spans if span.what == "frozen" and pid is not None and span.pid == pid)


def _faults(call: Call) -> Iterator[str]:
    # The journal has kind:id, and the nemesis calls its faults NAME-NUMBER: a name says more than a kind.
    return (label.partition(":")[2] for label in call.faults.split(",") if label)


def _read_by(history: History, call: Call, attempt: Attempt | None) -> float:
    """Return until when the answer may have been lost between two healthy ends: a frozen process reads it later."""
    until = call.ended + KEPT_WITHIN_S
    for span in frozen(history, pid_of(attempt)):
        if span.touches(call.started, until):
            until = max(until, span.ended + KEPT_WITHIN_S)
    return until


def _kill(history: History, call: Call, attempt: Attempt | None, until: float) -> Kill | None:
    """Return the kill that the token was lost by; a later one only together with the escrow."""
    if attempt is not None and attempt.outcome != Outcome.ABANDONED:
        return None  # it came to its end, and wrote down what it had
    pid = pid_of(attempt)
    for kill in history.kills:
        # Who exchanged a code is written nowhere until it is done: it was somebody, within the lease.
        is_he = kill.pid == pid if call.endpoint == "refresh" else kill.at <= call.ended + history.lease_s
        if kill.role != "worker" or not is_he or kill.at < call.started - _SKEW_S:
            continue
        if kill.at <= until or _escrow_fails(history, call.ended - ESCROW_RESTS_S, _asked(history, call, kill)):
            return kill
    return None


def _asked(history: History, call: Call, kill: Kill) -> float:
    """Return when somebody had asked the escrow for what a killed worker had put there."""
    if call.endpoint != "refresh":
        return kill.at
    later = (
        attempt.ended or attempt.began
        for attempt in history.attempts
        if attempt.connection_id == call.connection_id and attempt.began > kill.at
    )
    return min(later, default=history.stopped)


def _escrow_fails(history: History, began: float, ended: float) -> bool:
    return any(span.where == "valkey" and span.touches(began, ended) for span in history.spans)


def _is_late(history: History, call: Call, attempt: Attempt | None) -> bool:
    least = 0.9 * history.deadline_s
    if call.ended - call.started >= least:
        return True
    if attempt is None or attempt.ended is None or attempt.reason != "unknown":
        return False
    return attempt.ended - attempt.began >= least
