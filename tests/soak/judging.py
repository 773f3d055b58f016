"""Judges a soak: what was promised of 400 days, and what the tables and the providers say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.soak.plan import DAY, SETTLES, STEP
from tests.soak.run import STARTS
from worker.policy.expiry import NOTICES_DAYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.soak.plan import Outage, Plan
    from tests.soak.run import Member, Soaked

LONGEST_BETWEEN = timedelta(hours=26) + STEP
"""Of two refreshes (`policy.next_refresh_in`), with the step of a soak, which looks once an hour."""
VERDICT_WITHIN = LONGEST_BETWEEN + timedelta(hours=8)
"""From a grant's end: the next refresh, its confirmation, a guard that waits six hours."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a soak came to.

    Attributes:
        violations: Sentences; none if every promise was kept.
    """

    figures: Mapping[str, Any]
    violations: Sequence[str]


def judge(soaked: Soaked) -> Verdict:
    """Return figures and violations."""
    events = _events(soaked)
    violations = [
        *_left_alone(soaked),
        *_lost(soaked),
        *_verdicts(soaked, events),
        *_notices(soaked, events),
        *_gaps(soaked),
        *_spread(soaked),
        *_operators(events),
    ]
    return Verdict(_figures(soaked, events), violations)


_Events = dict[int | None, list[tuple[str, timedelta, dict[str, Any]]]]


def _events(soaked: Soaked) -> _Events:
    found: _Events = {}
    rows = soaked.fleet.db.execute("SELECT connection_id, type, created_at, payload FROM qbo.outbox ORDER BY id")
    for row in rows:
        found.setdefault(row.connection_id, []).append((row.type, row.created_at - STARTS, row.payload))
    return found


def _ended(soaked: Soaked, member: Member) -> timedelta | None:
    """Return when the member's grant ended, if the soak saw it."""
    ends = member.life.ends
    return ends if ends is not None and ends <= soaked.plan.days * DAY else None


def _left_alone(soaked: Soaked) -> Iterator[str]:
    if soaked.plan.days * DAY <= timedelta(seconds=soaked.providers[0].book.policy.window_seconds):
        return
    for provider, realm_id in soaked.bare:
        why = provider.grant(realm_id).why_over(provider.book.policy, provider.now)
        if why != "unused for too long":
            yield f"a {provider.name} grant that nobody refreshed did not die of it ({why}): this soak shows nothing"


def _lost(soaked: Soaked) -> Iterator[str]:
    for member in soaked.members:
        grant = member.provider.grant(member.connected.realm_id)
        if _ended(soaked, member) is not None:
            continue
        why = grant.why_over(member.provider.book.policy, member.provider.now)
        if why is not None:
            yield f"connection {member.connected.id} was lost: {why}"
        elif soaked.fleet.token(member.connected.id) != grant.current.value:
            yield f"connection {member.connected.id} does not hold its current token"
    for provider in soaked.providers:
        if provider.counts.overlapping:
            yield f"{provider.counts.overlapping} calls at {provider.name} met another with the same token"


def _verdicts(soaked: Soaked, events: _Events) -> Iterator[str]:
    for member in soaked.members:
        number, ended = member.connected.id, _ended(soaked, member)
        told = [at for kind, at, _ in events.get(number, []) if kind == "connection.needs_reauth"]
        status = soaked.fleet.row(number).status
        if ended is None and (told or status != "active"):
            yield f"connection {number}, whose grant lives, is {status}, told {len(told)} times"
        if ended is None or soaked.plan.days * DAY - ended < _served_until(soaked.plan, ended, VERDICT_WITHIN):
            continue
        if status != "needs_reauth" or len(told) != 1:
            yield f"connection {number}, ended on day {ended / DAY:.1f}, is {status}, told {len(told)} times"
        elif not ended <= told[0] <= ended + _served_until(soaked.plan, ended, VERDICT_WITHIN):
            yield f"connection {number}, ended on day {ended / DAY:.1f}, was told on day {told[0] / DAY:.1f}"


def _served_until(plan: Plan, since: timedelta, wanted: timedelta) -> timedelta:
    """Return how long after `since` the fleet had been served, without an outage, for so long in all."""
    at, served = since, timedelta(0)
    while served < wanted and at < plan.days * DAY:
        at += STEP
        served += timedelta(0) if _in(plan.outages, at) else STEP
    return at - since + STEP


def _in(outages: Sequence[Outage], at: timedelta) -> bool:
    # After an outage the pauses of its last failures go on for an hour.
    return any(each.begins <= at < each.ends + 2 * STEP for each in outages)


def _notices(soaked: Soaked, events: _Events) -> Iterator[str]:
    """Each notice comes once, in its own time before the end; and it comes, unless nothing was served in that time."""
    for member in soaked.members:
        number, end = member.connected.id, member.life.hard_end
        told = [(payload["days"], at) for kind, at, payload in events.get(number, []) if kind == "connection.expiring"]
        if end is None:
            if told:
                yield f"connection {number}, whose end is years away, was announced {len(told)} times"
            continue
        days = [each for each, _ in told]
        if days != sorted(set(days), reverse=True):
            yield f"connection {number} was announced at {days} days"
        for notice, later in zip(NOTICES_DAYS, (0, *NOTICES_DAYS), strict=False):
            opens, shuts = end - notice * DAY, end - later * DAY
            at = next((when for each, when in told if each == notice), None)
            if at is not None and not opens - STEP <= at <= shuts + STEP:
                yield f"connection {number}, ending on day {end / DAY:.1f}, had its {notice} days on day {at / DAY:.1f}"
            if at is None and _was_served(soaked, opens, shuts):
                yield f"connection {number}, ending on day {end / DAY:.2f}, was not announced at {notice} days"


def _was_served(soaked: Soaked, opens: timedelta, shuts: timedelta) -> bool:
    """Tell whether nothing stood in the way of a refresh between two moments, and in the days before them."""
    if opens < 2 * DAY or shuts > soaked.plan.days * DAY:
        return False
    opens = max(opens, shuts - 3 * DAY)
    return not any(each.begins < shuts and each.ends + 2 * DAY > opens for each in soaked.plan.outages)


def _gaps(soaked: Soaked) -> Iterator[str]:
    allowed = LONGEST_BETWEEN + max((each.lasts for each in soaked.plan.outages), default=timedelta(0)) + 2 * STEP
    for number, gap in soaked.longest.items():
        if gap > allowed:
            yield f"connection {number} went {gap / DAY:.1f} days without a refresh"


def _calm_hours(plan: Plan) -> list[int]:
    """Return the hours in which the load must be spread: a week after the start and after each outage."""
    stirred = [(timedelta(0), timedelta(0)), *((each.begins, each.ends) for each in plan.outages)]
    return [
        hour
        for hour in range(plan.days * 24)
        if not any(begins <= hour * STEP < ends + SETTLES for begins, ends in stirred)
    ]


def _spread(soaked: Soaked) -> Iterator[str]:
    busiest, mean = _busiest(soaked)
    if busiest > max(2 * mean, 2):  # a few connections cannot be spread more thinly than one at a time
        yield f"the busiest hour had {busiest} refreshes, the mean is {mean:.1f}"


def _busiest(soaked: Soaked) -> tuple[int, float]:
    loads = [soaked.refreshed.get(hour, 0) for hour in _calm_hours(soaked.plan)]
    return max(loads, default=0), sum(loads) / len(loads) if loads else 0.0


def _operators(events: _Events) -> Iterator[str]:
    for kind, at, _ in events.get(None, []):
        yield f"operators were told of {kind} on day {at / DAY:.1f}"


def _figures(soaked: Soaked, events: _Events) -> dict[str, Any]:
    busiest, mean = _busiest(soaked)
    told = Counter(
        f"expiring in {payload['days']}" if kind == "connection.expiring" else kind
        for each in events.values()
        for kind, _, payload in each
    )
    refreshes = sum(soaked.refreshed.values())
    return {
        "days": soaked.plan.days,
        "connections": len(soaked.members),
        "outages": [str(each) for each in soaked.plan.outages],
        "refreshes": refreshes,
        "calls": {each.name: each.counts.calls for each in soaked.providers},
        "rotations": {each.name: each.counts.rotations for each in soaked.providers},
        "presented_superseded": {each.name: each.counts.superseded for each in soaked.providers},
        "grants_ended": sum(_ended(soaked, each) is not None for each in soaked.members),
        "events": dict(sorted(told.items())),
        "longest_without_a_refresh_days": round(max(soaked.longest.values(), default=timedelta(0)) / DAY, 1),
        "busiest_hour": busiest,
        "mean_hour": round(mean, 1),
        "took_s": round(soaked.took_s, 1),
    }
