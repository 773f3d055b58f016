"""What a run came to, in figures and in words. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from qbo_refresh.status import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.chaos.checker import Verdict
    from tests.chaos.history import Attempt, History, Kill

_ANSWERED = (Outcome.REFRESHED, Outcome.SUSPECT, Outcome.NEEDS_REAUTH)


def figures(
    history: History,
    verdict: Verdict,
    *,
    faults: Mapping[str, int],
    steps: Mapping[str, int],
    met: Mapping[str, int],
    processes: int,
) -> dict[str, Any]:
    """Return what was counted.

    Args:
        history: The run.
        verdict: What the checker says of it.
        faults: By kind: how often a line or a server, or how many connections of one, met it.
        steps: By kind: what the nemesis has done.
        met: What customers, operator and callers have met.
        processes: How many were started.
    """
    kills = Counter(kill.role for kill in history.kills)
    claimed, recovered = _recoveries(history)
    exposed = sorted(attempt.exposed_us for attempt in history.attempts if attempt.exposed_us is not None)
    outcomes = Counter(attempt.outcome for attempt in history.attempts)
    answers = Counter(f"{call.status or 'none'} {call.error or ''}".strip() for call in history.calls)
    return {
        "seconds": round(history.stopped - history.began, 1),
        "settled_after_s": history.settled_s,
        "connections": len(history.rows),
        "kills": len(history.kills),
        "kills_of_workers": kills["worker"],
        "kills_of_beat": kills["beat"],
        "freezes_beyond_the_lease": sum(
            span.what == "frozen" and span.ended - span.began > history.lease_s for span in history.spans
        ),
        "cuts": steps.get("cut", 0),
        "connections_cut": sum(count for name, count in faults.items() if " cut (" in name),
        "steps": dict(steps),
        "faults": dict(sorted({**faults, **_by_intuit(history)}.items())),
        "processes_started": processes,
        "calls": len(history.calls),
        "answers": dict(answers.most_common()),
        "refreshes": outcomes[Outcome.REFRESHED],
        "attempts": dict(outcomes.most_common()),
        "overlapping_calls": verdict.count("never_two_at_once"),
        "overlaps_excused": dict(verdict.overlaps),
        "revoked": len(history.revoked),
        "verdicts_true": verdict.true_verdicts,
        "verdicts_for_lost_tokens": verdict.excused_verdicts,
        "verdicts_false": verdict.count("no_false_verdict"),
        "grants_punished_excused": dict(verdict.punished),
        "kept_within_s": round(history.kept_within_s, 3),
        "first_consents": sum(call.endpoint == "exchange" for call in history.calls),
        "lost_excused": dict(verdict.lost),
        "lost_unexcused": verdict.count("token_lost"),
        "events": len(history.events),
        "events_received": len(history.received_ids),
        "events_received_again": _again(history),
        "abandoned_and_claimed_again_s": _spread(claimed),
        "killed_to_answered_s": _spread(recovered),
        "exposed_us": _quantiles(exposed),
        "met": dict(sorted(met.items())),
        "violations": [{"promise": each.promise, "words": each.words} for each in verdict.violations],
    }


def words(numbers: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures as lines for people."""
    for name, value in numbers.items():
        if name == "violations":
            continue
        shown = "; ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        yield f"{name.replace('_', ' ')}: {shown}"
    for violation in numbers["violations"]:
        yield f"VIOLATED {violation['promise']}: {violation['words']}"
    count = len(numbers["violations"])
    yield f"{count} violations." if count else "Every promise was kept."


def _by_intuit(history: History) -> Counter[str]:
    """Count the calls that met each of the provider's faults, by the nemesis's names for them."""
    labels = (label for call in history.calls for label in call.faults.split(",") if label)
    return Counter(f"intuit {label.partition(':')[2].rpartition('-')[0]}" for label in labels)


def _again(history: History) -> int:
    return len(history.received) - len(set(history.received))


def _recoveries(history: History) -> tuple[list[float], list[float]]:
    """Return the seconds from each kill in mid-attempt to the next claim of that connection, and to Intuit's word."""
    by_connection: dict[int, list[Attempt]] = {}
    for attempt in history.attempts:
        by_connection.setdefault(attempt.connection_id, []).append(attempt)
    killed = {kill.pid: kill for kill in history.kills}
    claimed, answered = [], []
    for attempts in by_connection.values():
        for attempt in attempts:
            kill = _killed_in(attempt, killed)
            if kill is None:
                continue
            later = [each for each in attempts if each.began > max(kill.at, attempt.began)]
            claimed += [later[0].began - kill.at] if later else []
            ends = (each.ended for each in later if each.outcome in _ANSWERED and each.ended is not None)
            answered += [end - kill.at for end in list(ends)[:1]]
    return claimed, answered


def _killed_in(attempt: Attempt, killed: Mapping[int, Kill]) -> Kill | None:
    name = (attempt.worker or "").rpartition(":")[2]
    if attempt.outcome != Outcome.ABANDONED or not name.isdecimal():
        return None
    kill = killed.get(int(name))
    return kill if kill is not None and kill.at >= attempt.began else None


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"count": 0}
    return {
        "count": len(seconds),
        "median": round(statistics.median(seconds), 2),
        "max": round(max(seconds), 2),
    }


def _quantiles(microseconds: list[int]) -> dict[str, int]:
    if not microseconds:
        return {"count": 0}
    return {
        "count": len(microseconds),
        "p50": microseconds[len(microseconds) // 2],
        "p99": microseconds[min(len(microseconds) - 1, len(microseconds) * 99 // 100)],
        "max": microseconds[-1],
    }
