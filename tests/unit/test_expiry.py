"""The clock that no refresh moves: what is known of a grant's end, and when its notices are due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbo_refresh.secret import Secret
from qbo_refresh.status import Event, Status
from worker import policy
from worker.policy import Pace, Standing, expiry
from worker.policy.expiry import NOTICES_DAYS, Clocks
from worker.tokens import TokenSet

NOW = datetime(2028, 9, 1, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
ROLLING = Clocks(refresh_expires_at=NOW + 40 * DAY, obtained_at=NOW - DAY)
"""A window that ended in 40 days when its token came, a day ago."""


def hard_lifetime(
    clocks: Clocks = ROLLING,
    *,
    left: timedelta | None = 40 * DAY,
    said: timedelta | None = None,
    rotated: bool = True,
) -> timedelta | None:
    return expiry.hard_lifetime(clocks, left, said, now=NOW, rotated=rotated)


@pytest.mark.parametrize("clocks", [Clocks(), ROLLING, replace(ROLLING, hard_expires_at=NOW + 3 * DAY)])
@pytest.mark.parametrize("rotated", [True, False])
def test_what_intuit_says_of_the_end_is_taken(clocks: Clocks, rotated: bool) -> None:  # noqa: FBT001  # the table's
    assert hard_lifetime(clocks, said=9 * DAY, rotated=rotated) == 9 * DAY


@pytest.mark.parametrize("differs", [timedelta(0), expiry.SAME, -expiry.SAME])
def test_without_the_field_a_window_that_no_longer_rolls_shows_the_end(differs: timedelta) -> None:
    assert hard_lifetime(left=40 * DAY + differs) == 40 * DAY + differs


@pytest.mark.parametrize(
    ("clocks", "left", "rotated"),
    [
        (ROLLING, 41 * DAY, True),
        (ROLLING, 40 * DAY + expiry.SAME + timedelta(seconds=1), True),
        (ROLLING, 40 * DAY, False),
        (ROLLING, None, True),
        (replace(ROLLING, refresh_expires_at=None), 40 * DAY, True),
        (replace(ROLLING, obtained_at=None), 40 * DAY, True),
        (replace(ROLLING, obtained_at=NOW - 19 * HOUR), 40 * DAY, True),
        (replace(ROLLING, hard_expires_at=NOW + 200 * DAY), 40 * DAY, True),
        (replace(ROLLING, refresh_expires_at=NOW + 99 * DAY), 99 * DAY, True),
    ],
    ids=[
        "it rolls",
        "it rolls a little",
        "the same value counts down",
        "this answer does not say",
        "the last one did not",
        "nobody knows when that was",
        "a window hardly moves in so short a time",
        "the end is known",
        "one odd answer about a window that was not cut",
    ],
)
def test_nothing_else_is_taken_for_the_end(clocks: Clocks, left: timedelta | None, rotated: bool) -> None:  # noqa: FBT001  # the table's
    assert hard_lifetime(clocks, left=left, rotated=rotated) is None


@pytest.mark.parametrize(
    ("left", "told", "due"),
    [
        (91 * DAY, None, None),
        (90 * DAY, None, 90),
        (31 * DAY, None, 90),
        (31 * DAY, 90, None),
        (30 * DAY, 90, 30),
        (8 * DAY, 30, None),
        (7 * DAY, 30, 7),
        (DAY, 7, 1),
        (DAY, None, 1),
        (timedelta(0), 1, None),
        (-DAY, 7, 1),
        (60 * DAY, 30, None),
    ],
)
def test_each_notice_is_due_once_and_what_was_missed_is_not_made_up_for(
    left: timedelta, told: int | None, due: int | None
) -> None:
    known = Clocks(hard_expires_at=NOW + left, told_days=told)
    assert expiry.notice(known, None, now=NOW) == due
    assert expiry.notice(Clocks(told_days=told), left, now=NOW) == due


@pytest.mark.parametrize(
    ("left_hours", "planned_hours", "next_hours"),
    [
        (24.5, 26, 0.5),
        (24.5, 20, 0.5),
        (49, 26, 26),
        (37.9, 26, 13.9),
        (38.1, 26, 26),
        (62.1, 26, 26),
        (24, 26, 26),
        (3, 26, 26),
        (-5, 26, 26),
    ],
)
def test_no_refresh_steps_over_the_last_notice(left_hours: float, planned_hours: float, next_hours: float) -> None:
    left, planned = left_hours * HOUR, planned_hours * HOUR
    for known, lifetime in ((Clocks(hard_expires_at=NOW + left), None), (Clocks(), left)):
        assert expiry.in_time(known, lifetime, planned, now=NOW) == next_hours * HOUR
    assert expiry.in_time(Clocks(), None, planned, now=NOW) == planned


@given(minutes=st.integers(1, 40 * 24 * 60), late_s=st.integers(0, 120), first_number=st.integers(1, 10**6))
def test_every_end_is_announced_a_day_before_however_the_refreshes_fall(
    minutes: int, late_s: int, first_number: int
) -> None:
    # Fails without `expiry.in_time`: seen, with one refresh 24 h and a minute before the end.
    ends, at, told = NOW + DAY + timedelta(minutes=minutes), NOW, None
    while at < ends:
        before = Standing(first_number, Status.ACTIVE, clocks=Clocks(hard_expires_at=ends, told_days=told))
        decision = policy.decide(
            before, TokenSet(Secret("r"), Secret("a"), HOUR, None, ends - at), now=at, jitter=0, pace=Pace()
        )
        told = decision.expiry_told_days or told
        assert decision.next_refresh_in is not None
        at += decision.next_refresh_in + timedelta(seconds=late_s)
    assert told == 1


def test_an_unknown_end_is_never_announced() -> None:
    assert expiry.notice(Clocks(refresh_expires_at=NOW + DAY), None, now=NOW) is None


@given(st.lists(st.integers(-10, 130), max_size=30))
def test_whenever_it_is_asked_notices_come_in_order_and_each_once(days_left: list[int]) -> None:
    told: list[int] = []
    for left in sorted(days_left, reverse=True):
        due = expiry.notice(Clocks(told_days=told[-1] if told else None), left * DAY, now=NOW)
        if due is not None:
            told.append(due)
            assert left <= due
    assert all(before > after for before, after in pairwise(told))
    assert set(told) <= set(NOTICES_DAYS)


def test_a_success_announces_the_end_and_stays_a_success() -> None:
    before = Standing(7, Status.ACTIVE, clocks=Clocks(hard_expires_at=NOW + 29 * DAY, told_days=90))
    answer = TokenSet(Secret("r"), Secret("a"), HOUR, 29 * DAY, None)
    decision = policy.decide(before, answer, now=NOW, jitter=0, pace=Pace(), rotated=True)
    assert (decision.events, decision.expiry_told_days, decision.hard_lifetime) == ((Event.EXPIRING,), 30, None)
    assert not decision.is_verdict
