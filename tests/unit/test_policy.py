from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbo_refresh.secret import Secret
from qbo_refresh.status import MOVES, Event, Hold, Outcome, Status, may_move
from worker import policy
from worker.errors import (
    ClientRejected,
    GrantRejected,
    IntuitError,
    LeaseSpent,
    OutcomeUnknown,
    RequestRejected,
    Unavailable,
)
from worker.escrow import SETTLED_S
from worker.policy import Decision, Pace, Standing
from worker.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PACE = Pace()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LIVING = [Status.ACTIVE, Status.SUSPECT, Status.NEEDS_REAUTH]
TOKENS = TokenSet(Secret("r"), Secret("a"), HOUR, DAY, None)
FAILURES: list[IntuitError] = [
    Unavailable("unreachable"),
    Unavailable("throttled"),
    OutcomeUnknown("no_answer"),
    ClientRejected("invalid_client"),
    ClientRejected("unauthorized_client"),
    RequestRejected("invalid_request"),
    RequestRejected("invalid_scope"),
    RequestRejected("unsupported_grant_type"),
    RequestRejected("unheard_of"),
    LeaseSpent(),
    GrantRejected(perhaps_our_keys=True),
]


def standing(status: Status = Status.ACTIVE, **facts: object) -> Standing:
    return replace(Standing(7, status), **facts)  # type: ignore[arg-type]  # a test's own keywords


def decide(before: Standing, answer: TokenSet | IntuitError, *, jitter: float = 0.0) -> Decision:
    return policy.decide(before, answer, now=NOW, jitter=jitter, pace=PACE)


def suspect(ago: timedelta, **facts: object) -> Standing:
    return standing(Status.SUSPECT, suspect_since=NOW - ago, **facts)


@pytest.mark.parametrize("before", LIVING)
def test_tokens_make_a_connection_active_and_due_in_about_a_day(before: Status) -> None:
    decision = decide(standing(before, failures=9, in_doubt=True, suspect_since=NOW), TOKENS)
    assert (decision.outcome, decision.status, decision.reason) == (Outcome.REFRESHED, Status.ACTIVE, None)
    assert (decision.failures, decision.not_before_in, decision.keep_lease) == (0, None, False)
    assert decision.next_refresh_in is not None
    assert timedelta(hours=20) <= decision.next_refresh_in <= timedelta(hours=26)


def test_odd_lifetimes_are_reported_with_the_success() -> None:
    assert decide(standing(), replace(TOKENS, odd=("expires_in",))).reason == "lifetimes_clamped"


@pytest.mark.parametrize("before", LIVING)
@pytest.mark.parametrize("answer", FAILURES, ids=lambda error: f"{type(error).__name__}-{error.reason}")
def test_whatever_does_not_refuse_the_grant_changes_no_status_and_tells_nobody(
    before: Status, answer: IntuitError
) -> None:
    decision = decide(standing(before, suspect_since=NOW - DAY, failures=100), answer)
    assert decision.status is before
    assert (decision.events, decision.hold, decision.present_previous) == ((), None, False)
    assert decision.outcome in {Outcome.DEFERRED, Outcome.BLOCKED}
    assert decision.next_refresh_in == timedelta(0), "it is asked again"


@pytest.mark.parametrize(
    ("answer", "outcome", "reason", "counts"),
    [
        (Unavailable("unreachable"), Outcome.DEFERRED, "unreachable", False),
        (Unavailable("throttled"), Outcome.DEFERRED, "throttled", False),
        (OutcomeUnknown("broken_answer"), Outcome.DEFERRED, "unknown", False),
        (ClientRejected("invalid_client"), Outcome.BLOCKED, "invalid_client", False),
        (ClientRejected("unauthorized_client"), Outcome.BLOCKED, "unauthorized_client", False),
        (RequestRejected("invalid_request"), Outcome.DEFERRED, "invalid_request", True),
        (RequestRejected("unheard_of"), Outcome.DEFERRED, "unheard_of", True),
        (GrantRejected(perhaps_our_keys=True), Outcome.DEFERRED, "wrong_client", False),
        (LeaseSpent(), Outcome.DEFERRED, "lease_spent", False),
    ],
)
def test_each_failure_has_its_outcome_reason_and_meaning_for_the_app(
    answer: IntuitError,
    outcome: Outcome,
    reason: str,
    counts: bool,  # noqa: FBT001  # a column of the table above
) -> None:
    decision = decide(standing(), answer)
    assert (decision.outcome, decision.reason, decision.counts) == (outcome, reason, counts)


@pytest.mark.parametrize("answer", [e for e in FAILURES if not isinstance(e, OutcomeUnknown)], ids=lambda e: e.reason)
def test_the_lease_is_kept_only_in_doubt(answer: IntuitError) -> None:
    assert not decide(standing(), answer).keep_lease


@pytest.mark.parametrize("failures", [0, 1, 50])
def test_in_doubt_nothing_is_presented_before_the_lease_is_over(failures: int) -> None:
    decision = decide(standing(failures=failures), OutcomeUnknown("no_answer"))
    assert decision.keep_lease
    assert decision.not_before_in is not None
    assert PACE.lease <= decision.not_before_in <= HOUR


def test_a_spent_lease_costs_the_connection_nothing() -> None:
    decision = decide(standing(failures=3), LeaseSpent())
    assert (decision.failures, decision.not_before_in) == (3, None)


@pytest.mark.parametrize(
    ("asked", "pause"),
    [
        (None, PACE.backoff),
        (timedelta(0), PACE.backoff),
        (timedelta(milliseconds=1), timedelta(seconds=1)),
        (timedelta(seconds=30), timedelta(seconds=30)),
        (timedelta(minutes=15), timedelta(minutes=15)),
        (timedelta(days=400), timedelta(minutes=15)),
    ],
)
def test_a_429_pauses_the_app_as_long_as_it_asks_but_a_quarter_of_an_hour_at_most(
    asked: timedelta | None, pause: timedelta
) -> None:
    assert decide(standing(), Unavailable("throttled", retry_after=asked)).throttle == pause


def test_a_503_that_names_a_pause_is_in_doubt_and_pauses_the_app() -> None:
    decision = decide(standing(), OutcomeUnknown("no_usable_answer", retry_after=HOUR))
    assert decision.keep_lease
    assert decision.throttle == timedelta(minutes=15)


def test_a_first_refusal_makes_a_suspect_quietly() -> None:
    decision = decide(standing(), GrantRejected())
    assert (decision.outcome, decision.status) == (Outcome.SUSPECT, Status.SUSPECT)
    assert (decision.hold, decision.events) == (Hold.SUSPECT, ())
    assert decision.not_before_in == PACE.confirm_after
    assert not decision.present_previous


def test_a_refusal_confirmed_after_the_wait_is_a_verdict_with_hold_and_events() -> None:
    decision = decide(suspect(PACE.confirm_after), GrantRejected())
    assert (decision.outcome, decision.status) == (Outcome.NEEDS_REAUTH, Status.NEEDS_REAUTH)
    assert decision.next_refresh_in == timedelta(hours=3)
    assert decision.hold is Hold.REAUTH
    assert decision.events == (Event.NEEDS_REAUTH,), "the hold itself writes sync.paused"


@pytest.mark.parametrize(
    "before",
    [
        suspect(PACE.confirm_after - timedelta(seconds=1)),
        suspect(DAY, untried=1),
        suspect(DAY, is_taken_over=True),
        standing(Status.SUSPECT, suspect_since=None),
        standing(Status.ACTIVE),
        standing(Status.ACTIVE, suspect_since=NOW - DAY),
    ],
    ids=[
        "too soon",
        "a candidate is untried",
        "the lease was not given back",
        "another version's suspicion",
        "never refused before",
        "an active one is suspected first",
    ],
)
def test_a_refusal_is_no_verdict(before: Standing) -> None:
    decision = decide(before, GrantRejected())
    assert (decision.status, decision.events) == (Status.SUSPECT, ())
    assert decision.not_before_in == PACE.confirm_after


def test_a_refusal_in_needs_reauth_repeats_no_event() -> None:
    decision = decide(standing(Status.NEEDS_REAUTH, suspect_since=NOW - DAY), GrantRejected())
    assert (decision.outcome, decision.status) == (Outcome.NEEDS_REAUTH, Status.NEEDS_REAUTH)
    assert (decision.events, decision.hold) == ((), None)


@pytest.mark.parametrize("before", [standing(in_doubt=True), suspect(HOUR, reason="answer_lost")])
def test_a_refusal_after_doubt_is_perhaps_our_own_fault_and_says_so(before: Standing) -> None:
    assert decide(before, GrantRejected()).reason == "answer_lost"


def test_a_refusal_without_doubt_is_invalid_grant() -> None:
    assert decide(standing(), GrantRejected()).reason == "invalid_grant"


@pytest.mark.parametrize("before", LIVING)
def test_an_unreadable_row_keeps_its_status_and_waits_an_hour(before: Status) -> None:
    decision = policy.unreadable(standing(before))
    assert (decision.outcome, decision.status, decision.not_before_in) == (Outcome.UNREADABLE, before, HOUR)
    assert decision.events == (), "told for its key, and not for each row"


@given(
    before=st.builds(
        Standing,
        st.just(1),
        st.sampled_from(LIVING),
        st.integers(0, 10_000),
        st.booleans(),
        st.booleans(),
        st.none() | st.datetimes(timezones=st.just(UTC)),
        st.none() | st.datetimes(timezones=st.just(UTC)),
        st.integers(0, 3),
        st.sampled_from([None, "unreadable", "answer_lost", "invalid_grant"]),
    ),
    answer=st.sampled_from([TOKENS, GrantRejected(), *FAILURES]),
    jitter=st.floats(0, 1, exclude_max=True),
    now=st.datetimes(timezones=st.just(UTC)),
)
def test_every_decision_is_a_legal_move_and_a_verdict_needs_a_suspect(
    before: Standing, answer: TokenSet | IntuitError, jitter: float, now: datetime
) -> None:
    decision = policy.decide(before, answer, now=now, jitter=jitter, pace=PACE)
    assert may_move(before.status, decision.status)
    if (before.status, decision.status) != (Status.NEEDS_REAUTH,) * 2 and decision.status is Status.NEEDS_REAUTH:
        assert before.status is Status.SUSPECT
        assert before.suspect_since is not None
        assert now - before.suspect_since >= PACE.confirm_after
        assert before.untried == 0
        assert not before.is_taken_over
    if decision.not_before_in is not None:
        assert timedelta(0) < decision.not_before_in <= HOUR


def test_there_is_no_move_from_active_to_needs_reauth() -> None:
    assert not may_move(Status.ACTIVE, Status.NEEDS_REAUTH)


def test_a_disconnected_connection_only_comes_back_as_active() -> None:
    assert {after for before, after in MOVES if before is Status.DISCONNECTED} == {Status.ACTIVE}


@pytest.mark.parametrize("status", Status)
def test_staying_is_always_allowed(status: Status) -> None:
    assert may_move(status, status)


@pytest.mark.parametrize(
    ("failures", "minutes"), [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (100, 60), (10**9, 60)]
)
def test_the_back_off_doubles_from_a_minute_to_an_hour(failures: int, minutes: int) -> None:
    assert policy.backoff(failures, jitter=0, pace=PACE) == timedelta(minutes=minutes)


@given(failures=st.integers(0, 10**6), jitter=st.floats(0, 1, exclude_max=True))
def test_jitter_lengthens_a_back_off_by_a_quarter_at_most_and_never_beyond_an_hour(
    failures: int, jitter: float
) -> None:
    plain = policy.backoff(failures, jitter=0, pace=PACE)
    assert plain <= policy.backoff(failures, jitter=jitter, pace=PACE) <= min(plain * 1.25, HOUR)


def hours_taken(moments: list[datetime]) -> list[int]:
    taken = [0] * 24
    for moment in moments:
        taken[moment.hour] += 1
    return taken


def test_a_new_fleet_is_spread_evenly_over_the_day() -> None:
    taken = hours_taken([NOW + policy.until_slot(number, now=NOW) for number in range(1, 2401)])
    assert max(taken) - min(taken) <= 4, "100 in each hour"


@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_a_fleet_bunched_by_an_outage_is_spread_again_within_five_days(hour: int) -> None:
    bunched = NOW.replace(hour=hour)
    moments = dict.fromkeys(range(1, 2401), bunched)
    for _ in range(5):
        moments = {number: at + policy.next_refresh_in(number, now=at) for number, at in moments.items()}
    taken = hours_taken(list(moments.values()))
    assert max(taken) - min(taken) <= 12, "100 in each hour"


@given(number=st.integers(1, 2**63 - 1))
def test_a_connection_in_its_slot_stays_at_a_day(number: int) -> None:
    at = NOW
    for _ in range(7):
        at += policy.next_refresh_in(number, now=at)
    assert abs(policy.next_refresh_in(number, now=at) - DAY) <= timedelta(seconds=2)


@given(number=st.integers(1, 2**63 - 1), now=st.datetimes(timezones=st.just(UTC)))
def test_a_refresh_is_never_more_than_25_hours_nor_less_than_20_after_the_last(number: int, now: datetime) -> None:
    assert timedelta(hours=20) <= policy.next_refresh_in(number, now=now) <= timedelta(hours=25)


@given(number=st.integers(1, 2**63 - 1), now=st.datetimes(timezones=st.just(UTC)))
def test_what_was_saved_is_in_the_escrow_until_the_connection_is_asked_next(number: int, now: datetime) -> None:
    # A failover may forget a claim and its save: the row is then due as the refresh before had left it. Found by the
    # explorer, with a wait of up to 26 h.
    sweep = timedelta(minutes=5)
    assert policy.next_refresh_in(number, now=now) + sweep <= timedelta(seconds=SETTLED_S)


@pytest.mark.parametrize("offset_hours", [-8, 5.5, 13])
def test_a_connections_time_of_day_does_not_depend_on_the_database_sessions_zone(offset_hours: float) -> None:
    local = NOW.astimezone(timezone(timedelta(hours=offset_hours)))
    assert policy.until_slot(7, now=local) == policy.until_slot(7, now=NOW)


@pytest.mark.parametrize(("lease_s", "deadline_s"), [(60, 20), (3, 1), (600, 20)])
def test_a_post_and_the_slack_fit_into_a_lease(lease_s: float, deadline_s: float) -> None:
    pace = Pace(lease=timedelta(seconds=lease_s))
    assert pace.deadline == timedelta(seconds=deadline_s)
    assert pace.deadline + pace.slack < pace.lease / 2
