from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbo_refresh.secret import Secret
from worker.errors import ClientRejected, GrantRejected, IntuitError, OutcomeUnknown, RequestRejected, Unavailable
from worker.intuit.endpoint import classify, retry_after
from worker.intuit.transport import RawAnswer
from worker.tokens import TokenSet

TOKENS = {"access_token": "a", "refresh_token": "RT1-" + "x" * 36, "expires_in": 3600}
BODIES = {
    "tokens": json.dumps(TOKENS),
    "invalid_grant": '{"error":"invalid_grant"}',
    "invalid_client": '{"error":"invalid_client"}',
    "invalid_request": '{"error":"invalid_request"}',
    "unheard_of": '{"error":"canary_code"}',
    "html": "<html>sorry</html>",
    "empty": "",
    "list": "[]",
    "other json": '{"fault": {"error": [1]}}',
    "not text": '{"error": ["invalid_grant"]}',
    "odd case": '{"error":"INVALID_GRANT"}',
    "cut": '{"error":"invalid_gra',
}
STATUSES = [200, 201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504, 599]
KNOWN = {
    (200, "tokens"): TokenSet,
    (400, "invalid_grant"): GrantRejected,
    (400, "invalid_client"): ClientRejected,
    (401, "invalid_client"): ClientRejected,
    **{
        (status, body): RequestRejected
        for status in (400, 401)
        for body in ("invalid_request", "unheard_of", "odd case")
    },
    (401, "invalid_grant"): RequestRejected,
    **{(429, body): Unavailable for body in BODIES},
}


def answer(status: int, body: str | bytes, *, complete: bool = True, **headers: str) -> RawAnswer:
    return RawAnswer(
        status, headers, body.encode() if isinstance(body, str) else body, complete=complete, last_byte_at=1.0
    )


def classified(raw: RawAnswer) -> TokenSet | IntuitError:
    try:
        return classify(raw)
    except IntuitError as error:
        return error


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("body", BODIES)
def test_only_what_is_known_to_be_unprocessed_is_not_in_doubt(status: int, body: str) -> None:
    found = classified(answer(status, BODIES[body]))
    assert type(found) is KNOWN.get((status, body), OutcomeUnknown)
    assert found.facts.http_status == status


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("body", ["tokens", "invalid_grant", "invalid_client", "invalid_request"])
def test_a_body_that_was_cut_decides_nothing(status: int, body: str) -> None:
    found = classified(answer(status, BODIES[body], complete=False))
    assert type(found) is (Unavailable if status == 429 else OutcomeUnknown)


@given(status=st.integers(100, 599), body=st.binary(max_size=200), complete=st.booleans())
def test_no_bytes_make_the_classification_fail_or_a_refusal_of_the_grant(
    status: int,
    body: bytes,
    complete: bool,  # noqa: FBT001  # drawn by Hypothesis
) -> None:
    found = classified(answer(status, body, complete=complete))
    assert isinstance(found, TokenSet | IntuitError)
    assert not isinstance(found, GrantRejected)


@pytest.mark.parametrize(
    "code", ["Invalid_grant", "invalid_grant ", "invalid grant", "invalid_grants", "grant_invalid"]
)
def test_a_code_that_is_nearly_invalid_grant_is_not(code: str) -> None:
    assert isinstance(classified(answer(400, json.dumps({"error": code}))), RequestRejected)


@pytest.mark.parametrize(
    ("description", "withheld"),
    [
        ("Incorrect Token type or clientID", True),
        ("incorrect token type or client id", True),
        ("Incorrect or invalid refresh token", False),
        ("Token invalid", False),
        (None, False),
        (7, False),
    ],
)
def test_a_description_may_withhold_a_verdict(description: object, withheld: bool) -> None:  # noqa: FBT001  # the table's
    found = classified(answer(400, json.dumps({"error": "invalid_grant", "error_description": description})))
    assert isinstance(found, GrantRejected)
    assert found.perhaps_our_keys is withheld


def test_text_never_makes_a_verdict() -> None:
    body = json.dumps({"error": "invalid_request", "error_description": "invalid_grant"})
    assert isinstance(classified(answer(400, body)), RequestRejected)


@pytest.mark.parametrize(("code", "reason"), [("invalid_scope", "invalid_scope"), ("canary-token", "unheard_of")])
def test_what_a_stranger_writes_into_an_answer_is_no_reason_of_ours(code: str, reason: str) -> None:
    found = classified(answer(400, json.dumps({"error": code})))
    assert isinstance(found, RequestRejected)
    assert found.reason == reason


def test_a_broken_200_gives_up_the_token_that_can_be_read_whole() -> None:
    found = classified(answer(200, BODIES["tokens"][:-3], complete=False))
    assert isinstance(found, OutcomeUnknown)
    assert found.salvaged == Secret(TOKENS["refresh_token"])  # type: ignore[arg-type]  # a string


def test_nothing_is_salvaged_from_an_error_page() -> None:
    found = classified(answer(500, BODIES["tokens"]))
    assert isinstance(found, OutcomeUnknown)
    assert found.salvaged is None


@pytest.mark.parametrize(
    ("tid", "kept"),
    [
        ("1-68a-fe", "1-68a-fe"),
        ("", None),
        ("\x1b[31m<b>ünk</b>", "31mbnkb"),
        ("x" * 5000, "x" * 100),
    ],
)
def test_intuits_transaction_id_is_kept_without_what_could_harm_a_log(tid: str, kept: str | None) -> None:
    assert classified(answer(500, "", intuit_tid=tid)).facts.intuit_tid == kept


def test_a_missing_transaction_id_is_none() -> None:
    assert classified(answer(500, "")).facts.intuit_tid is None


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(seconds=120)),
        (" 7 ", timedelta(seconds=7)),
        ("0000000000120", timedelta(seconds=120)),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), timedelta(minutes=2)),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), timedelta(0)),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("Mon, 99 Foo 2026 12:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str, pause: timedelta | None) -> None:
    assert retry_after({"retry-after": value, "date": format_datetime(NOW, usegmt=True)}) == pause


@pytest.mark.parametrize("value", ["9" * 30, "1000000000"])
def test_an_absurd_retry_after_is_a_long_pause_for_policy_to_bound(value: str) -> None:
    asked = retry_after({"retry-after": value})
    assert asked is not None
    assert asked > timedelta(days=300)


def test_a_date_counts_from_the_answers_own_clock() -> None:
    wrong = NOW - timedelta(days=3000)
    headers = {"retry-after": format_datetime(wrong + timedelta(seconds=90)), "date": format_datetime(wrong)}
    assert retry_after(headers) == timedelta(seconds=90)


@given(value=st.text(max_size=60), date=st.text(max_size=60))
def test_no_header_makes_the_reading_of_retry_after_fail(value: str, date: str) -> None:
    assert isinstance(retry_after({"retry-after": value, "date": date}), timedelta | None)
