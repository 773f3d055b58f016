"""What the lease, the version and `not_before` forbid, read off the ledger and the journal. Pure.

These rules are broken long before a customer could notice: other guards still stand behind each of them.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from qbo_refresh.status import Outcome
from tests.chaos.excuses import frozen, number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.chaos.history import Attempt, Call, History

# Two processes' readings of one clock.
_SKEW_S = 0.05
_BINDS_FOR_A_LEASE = "unknown"
_ASKED_AT_ONCE = ("candidate", "previous")


def sent_without(history: History) -> Iterator[str]:
    """Yield each refresh that a worker sent after it had been frozen until it might not any more.

    Only those: a provider whose process has to wait for a processor reads late what was sent in time.
    """
    calls: dict[int, list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.endpoint == "refresh" and call.connection_id is not None:
            calls[call.connection_id].append(call)
    for connection_id, attempts in _by_connection(history).items():
        for number, attempt in enumerate(attempts):
            ends = attempts[number + 1].began if number + 1 < len(attempts) else float("inf")
            if attempt.trigger == "consent" or _near_consent(history, attempt, ends):
                continue  # a code's exchange, and what the older grant's attempt may still be sending beside it
            mine = [each for each in calls[connection_id] if attempt.began <= each.started + _SKEW_S < ends]
            for owner, thawed in _thawed(history, attempts[: number + 1], attempt.began, ends):
                after = [each for each in mine if each.started >= thawed]
                is_beside = attempt.outcome != Outcome.ABANDONED and len(mine) > (attempt.posts or 0)
                if after and (owner is attempt or is_beside):
                    yield (
                        f"call {after[0].sequence} for connection {connection_id} at"
                        f" {after[0].started - history.began:.3f} s was sent by a worker that was frozen until then,"
                        f" {thawed - owner.began:.2f} s after its claim"
                    )


def _thawed(
    history: History, attempts: Sequence[Attempt], began: float, ends: float
) -> Iterator[tuple[Attempt, float]]:
    """Yield these attempts whose workers went on within that time, too late to send, and when they did."""
    latest = history.lease_s - history.deadline_s - history.lease_s / 12
    for attempt in attempts:
        for span in frozen(history, number_of(attempt.worker)):
            frozen_in_it = attempt.began <= span.began + _SKEW_S and span.began < attempt.began + latest
            if frozen_in_it and span.ended > attempt.began + latest + _SKEW_S and began <= span.ended < ends:
                yield attempt, span.ended


def saved_over(history: History) -> Iterator[str]:
    """Yield each version of a row that two attempts have saved over: the later one should have lost the comparison."""
    seen: set[tuple[int, int]] = set()
    for attempt in history.attempts:
        if attempt.outcome != Outcome.REFRESHED:
            continue
        version = (attempt.connection_id, attempt.version)
        if version in seen:
            yield f"version {attempt.version} of connection {attempt.connection_id} was replaced twice"
        seen.add(version)


def asked_early(history: History) -> Iterator[str]:
    """Yield each attempt that began while a refusal or a doubt bound everybody."""
    for connection_id, attempts in _by_connection(history).items():
        for earlier, later in pairwise(attempts):
            if earlier.version != later.version:
                continue
            # Bound from when it was written down; when it began is what is known exactly, and a little earlier.
            if earlier.outcome == Outcome.SUSPECT and earlier.withheld not in _ASKED_AT_ONCE:
                free_at = earlier.began + history.confirm_after_s
            elif earlier.reason == _BINDS_FOR_A_LEASE:
                free_at = earlier.began + history.lease_s
            else:
                continue
            if later.trigger != "consent" and later.began < free_at - _SKEW_S:
                yield (
                    f"connection {connection_id} was claimed at {later.began - history.began:.3f} s,"
                    f" {free_at - later.began:.2f} s before it might have been"
                )


def _by_connection(history: History) -> Mapping[int, list[Attempt]]:
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in sorted(history.attempts, key=lambda each: each.began):
        attempts[attempt.connection_id].append(attempt)
    return attempts


def _near_consent(history: History, attempt: Attempt, ends: float) -> bool:
    return any(
        consent.connection_id == attempt.connection_id
        and consent.presented is not None
        and consent.presented <= ends
        and (consent.finished is None or consent.finished >= attempt.began - history.lease_s)
        for consent in history.consented
    )
