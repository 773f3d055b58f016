"""The pure scheduling core alone: a hundred thousand connections through 400 days, at the rate of the defaults."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from worker import policy
from worker.policy import Pace

STARTS = datetime(2027, 1, 4, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
CONNECTIONS = 100_000
END = STARTS + 400 * DAY
PER_MINUTE = 1200
PACE = Pace()
SAME = timedelta(seconds=2)
# Begins, ends, and whether connections are asked meanwhile and fail (Intuit is away) or are not (we are).
OUTAGES = (
    (STARTS + 150 * DAY, STARTS + 180 * DAY, False),
    (STARTS + 300.3 * DAY, STARTS + 300.55 * DAY, True),
)


def let_go(numbers: range, since: datetime) -> dict[int, datetime]:
    """Return when each goes if all are due at once and the fleet starts again: a tenth of the rate, then twice that."""
    moments, waiting, minute = {}, list(reversed(numbers)), 0
    while waiting:
        for place in range(min(len(waiting), round(PER_MINUTE * policy.ramp(minute * MINUTE)))):
            moments[waiting.pop()] = since + minute * MINUTE + place * MINUTE / PER_MINUTE
        minute += 1
    return moments


def asked_in_vain(at: datetime, ends: datetime) -> datetime:
    """Return when a connection that is due at a time is asked for the first time after Intuit is back."""
    failures = 0
    while at < ends:
        failures += 1
        at += policy.backoff(failures, jitter=0.5, pace=PACE)
    return at


def settle(moments: dict[int, datetime], until: datetime) -> tuple[dict[int, datetime], int]:
    """Refresh each day until each is at a day's distance, which it keeps; return their last moments before `until`.

    And how many days that took.
    """
    settled: dict[int, datetime] = {}
    days = 0
    while moments:
        later = {}
        for number, at in moments.items():
            step = policy.next_refresh_in(number, now=at)
            if abs(step - DAY) <= SAME:
                settled[number] = at + (until - at) // DAY * DAY
            else:
                assert 20 * HOUR <= step <= 26 * HOUR
                later[number] = at + step
        moments, days = later, days + 1
    return settled, days


def test_a_hundred_thousand_connections_are_spread_within_a_week_of_every_outage_and_none_waits_a_hundred_days() -> (
    None
):
    everybody = range(1, CONNECTIONS + 1)
    moments = let_go(everybody, STARTS)
    for begins, ends, asked in (*OUTAGES, (END, END, False)):
        last, days = settle(moments, begins)
        assert days <= 7
        assert max(Counter(at.hour for at in last.values()).values()) <= 1.01 * CONNECTIONS / 24
        due = {number: at + DAY for number, at in last.items()}
        if asked:
            moments = {number: asked_in_vain(at, ends) for number, at in due.items()}
            assert max(at - due[number] for number, at in moments.items()) < ends - begins + HOUR
        else:
            moments = let_go(everybody, ends) if begins < END else due
        longest = max(at - last[number] for number, at in moments.items())
        assert longest <= ends - begins + 26 * HOUR + CONNECTIONS / PER_MINUTE * MINUTE + 5 * MINUTE
        assert longest < 100 * DAY


def test_a_fleet_that_is_let_go_again_never_goes_faster_than_its_rate() -> None:
    starts = sorted(let_go(range(5000), STARTS).values())
    assert max(Counter((at - STARTS) // MINUTE for at in starts).values()) == PER_MINUTE
    assert sum(at < STARTS + MINUTE for at in starts) == PER_MINUTE / 10
    assert all(before <= after for before, after in pairwise(starts))
