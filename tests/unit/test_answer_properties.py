"""Whatever comes over the wire: an answer of a closed set, and a verdict by nothing but a 400 with `invalid_grant`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qbo_refresh.status import Status
from worker import policy
from worker.errors import (
    ClientRejected,
    GrantRejected,
    IntuitError,
    OutcomeUnknown,
    RequestRejected,
    Unavailable,
)
from worker.intuit.endpoint import classify
from worker.intuit.transport import RawAnswer
from worker.policy import Evidence, Guard, Pace, Standing, Withheld
from worker.policy.expiry import Clocks
from worker.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PACE = Pace()
CANARY = "RT1-canary-canary-canary-canary-canary"
REASONS = {
    "broken_answer", "no_usable_answer", "throttled", "invalid_grant", "invalid_client", "unauthorized_client",
    "invalid_request", "invalid_scope", "unsupported_grant_type", "unheard_of",
}  # fmt: skip
CODES = ["invalid_grant", "INVALID_GRANT", "invalid_client", "unauthorized_client", "invalid_request", CANARY, ""]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([*CODES, "1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "error", "error_description", "access_token", "refresh_token", "expires_in", "x_refresh_token_expires_in",
    "x_refresh_token_hard_expires_in", "token_type",
]  # fmt: skip
objects = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), values, max_size=8)
bodies = st.one_of(
    st.binary(max_size=300),
    objects.map(lambda body: json.dumps(body).encode()),
    st.builds(lambda body, cut: json.dumps(body).encode()[:cut], objects, st.integers(0, 200)),
    st.sampled_from(CODES).map(lambda code: json.dumps({"error": code}).encode()),
    st.integers(1, 2000).map(lambda depth: b'{"error":' + b"[" * depth),
)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "date", "intuit_tid", "content-type", "content-encoding", "location"]),
    st.text(max_size=60) | st.sampled_from(["-1", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT", "0", "soon", "1.5"]),
)
answers = st.builds(
    RawAnswer,
    st.sampled_from([200, 400, 401, 429, 503]) | st.integers(100, 999),
    headers,
    bodies,
    complete=st.booleans(),
    last_byte_at=st.floats(0, 1e9),
)


def classified(raw: RawAnswer) -> TokenSet | IntuitError:
    try:
        return classify(raw)
    except IntuitError as error:
        return error


def says_invalid_grant(raw: RawAnswer) -> bool:
    try:
        body: Any = json.loads(raw.body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return raw.status == 400 and raw.complete and isinstance(body, dict) and body.get("error") == "invalid_grant"


@given(raw=answers)
def test_whatever_comes_means_one_of_a_closed_set(raw: RawAnswer) -> None:
    found = classified(raw)
    assert isinstance(found, GrantRejected) is says_invalid_grant(raw)
    match found:
        case TokenSet():
            assert raw.status == 200
            assert raw.complete
            assert timedelta(minutes=1) <= found.access_lifetime <= timedelta(days=1)
        case GrantRejected() | ClientRejected() | RequestRejected():
            assert raw.status in (400, 401)
        case Unavailable():
            assert raw.status == 429
        case _:
            assert isinstance(found, OutcomeUnknown)
    if isinstance(found, IntuitError):
        assert found.reason in REASONS, "and nothing that a stranger wrote"
        assert "canary" not in f"{found!r}{found.__cause__!r}{found.args}"
    assert found.facts.intuit_tid is None or (len(found.facts.intuit_tid) <= 100 and found.facts.intuit_tid.isascii())


moments = st.none() | st.timedeltas(timedelta(days=-2000), timedelta(days=2000)).map(lambda ago: NOW - ago)
standings = st.builds(
    Standing,
    st.integers(1, 2**63 - 1),
    st.sampled_from([Status.ACTIVE, Status.SUSPECT, Status.NEEDS_REAUTH]),
    st.integers(0, 10**6),
    st.booleans(),
    moments,
    moments,
    st.integers(0, 2),
    st.sampled_from([None, "unreadable", "answer_lost", "invalid_grant"]),
    st.builds(Clocks, moments, moments, moments, st.sampled_from([None, 1, 7, 30, 90])),
)
evidences = st.builds(
    Evidence,
    st.just(NOW),
    st.booleans(),
    moments,
    st.booleans(),
    st.builds(Guard, moments, moments),
    moments,
    st.booleans(),
    st.booleans(),
)


def refused_twice(evidence: Evidence) -> bool:
    first = evidence.candidate_refused_at
    return first is None or NOW - first >= PACE.confirm_after


@given(before=standings, raw=answers, evidence=evidences, jitter=st.floats(0, 1, exclude_max=True))
def test_whatever_comes_a_verdict_is_the_second_word_of_invalid_grant_and_nothing_stands_against_it(
    before: Standing, raw: RawAnswer, evidence: Evidence, jitter: float
) -> None:
    decision = policy.decide(before, classified(raw), now=NOW, jitter=jitter, pace=PACE)
    if decision.status is Status.NEEDS_REAUTH:
        decision = policy.judge(decision, before, evidence, pace=PACE)
    if not decision.is_verdict:
        # What had been given already stands; nothing else makes that status.
        assert decision.status is not Status.NEEDS_REAUTH or before.status is Status.NEEDS_REAUTH
        return
    assert says_invalid_grant(raw)
    assert before.status is Status.SUSPECT
    assert before.suspect_since is not None
    assert NOW - before.suspect_since >= PACE.confirm_after
    assert (before.untried, evidence.untried, evidence.previous_untried) == (0, False, False)
    assert refused_twice(evidence)
    assert evidence.witness or NOW - before.suspect_since >= PACE.confirm_alone_after
    assert evidence.guard.is_open or evidence.hard_expired or evidence.witness
    assert decision.withheld is None


confirmed = st.timedeltas(PACE.confirm_after, timedelta(days=30)).map(
    lambda ago: Standing(7, Status.SUSPECT, suspect_since=NOW - ago)
)


@given(before=confirmed, evidence=evidences)
def test_what_stands_against_a_confirmed_refusal_withholds_it_by_name_and_asks_again(
    before: Standing, evidence: Evidence
) -> None:
    decision = policy.decide(before, GrantRejected(), now=NOW, jitter=0, pace=PACE)
    assert decision.is_verdict
    judged = policy.judge(decision, before, evidence, pace=PACE)
    if judged.withheld is None:
        assert judged == decision
        assert (evidence.untried, evidence.previous_untried) == (False, False)
        assert refused_twice(evidence)
        assert evidence.witness or (before.suspect_since and NOW - before.suspect_since >= PACE.confirm_alone_after)
        assert evidence.guard.is_open or evidence.hard_expired or evidence.witness
    else:
        assert Withheld(judged.withheld)
        assert (judged.status, judged.events, judged.hold) == (before.status, (), None)
        assert judged.next_refresh_in == timedelta(0)
