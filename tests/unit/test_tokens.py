from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbo_refresh.secret import Secret
from worker import tokens
from worker.errors import Facts
from worker.tokens import LONGEST_ACCESS, LONGEST_GRANT, SHORTEST_ACCESS, TokenSet

REFRESH = "RT1-123-H0-17999999990123456789abcdef0123"
GOOD: dict[str, Any] = {
    "token_type": "bearer",
    "access_token": "eyJ.made.up",
    "expires_in": 3600,
    "refresh_token": REFRESH,
    "x_refresh_token_expires_in": 8726400,
    "x_refresh_token_hard_expires_in": 157680000,
}


def parsed(**changes: Any) -> TokenSet:
    found = tokens.parse(GOOD | changes, Facts())
    assert found is not None
    return found


def test_a_good_answer_is_read_as_it_is() -> None:
    found = parsed()
    assert (found.refresh_token, found.access_token) == (Secret(REFRESH), Secret("eyJ.made.up"))
    assert found.access_lifetime == timedelta(hours=1)
    assert found.refresh_lifetime == timedelta(seconds=8726400)
    assert found.hard_lifetime == timedelta(seconds=157680000)
    assert found.odd == ()


@pytest.mark.parametrize("seconds", ["3600", " 3600 ", "3600.0", 3600.0])
def test_numbers_as_strings_are_numbers(seconds: object) -> None:
    found = parsed(expires_in=seconds, x_refresh_token_expires_in="8640000")
    assert (found.access_lifetime, found.odd) == (timedelta(hours=1), ())
    assert found.refresh_lifetime == timedelta(seconds=8640000)


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        (0, SHORTEST_ACCESS),
        (-1, SHORTEST_ACCESS),
        (1e-9, SHORTEST_ACCESS),
        (59, SHORTEST_ACCESS),
        (86_401, LONGEST_ACCESS),
        (1e12, LONGEST_ACCESS),
        (10**400, SHORTEST_ACCESS),
        (float("inf"), SHORTEST_ACCESS),
        (float("nan"), SHORTEST_ACCESS),
        ("soon", SHORTEST_ACCESS),
        (None, SHORTEST_ACCESS),
        (True, SHORTEST_ACCESS),
        ([3600], SHORTEST_ACCESS),
    ],
)
def test_an_absurd_access_lifetime_is_clamped_and_reported(seconds: object, kept: timedelta) -> None:
    found = parsed(expires_in=seconds)
    assert (found.access_lifetime, found.odd) == (kept, ("expires_in",))


@pytest.mark.parametrize("name", ["x_refresh_token_expires_in", "x_refresh_token_hard_expires_in"])
@pytest.mark.parametrize(
    ("seconds", "kept"), [(0, None), (-1, None), ("x", None), (None, None), (10**400, None), (1e12, LONGEST_GRANT)]
)
def test_an_absurd_lifetime_of_the_grant_is_unknown_or_clamped_and_reported(
    name: str, seconds: object, kept: timedelta | None
) -> None:
    found = parsed(**{name: seconds})
    lifetimes = {
        "x_refresh_token_expires_in": found.refresh_lifetime,
        "x_refresh_token_hard_expires_in": found.hard_lifetime,
    }
    assert (lifetimes[name], found.odd) == (kept, (name,))


def test_an_absent_lifetime_is_unknown_and_nothing_odd() -> None:
    body = {name: value for name, value in GOOD.items() if not name.startswith("x_")}
    found = tokens.parse(body, Facts())
    assert found is not None
    assert (found.refresh_lifetime, found.hard_lifetime, found.odd) == (None, None, ())


@pytest.mark.parametrize("name", ["refresh_token", "access_token"])
@pytest.mark.parametrize("value", [None, "", " ", 7, True, [REFRESH], {"a": 1}, "two words", "line\nbreak", "ümlaut"])
def test_an_answer_without_two_usable_tokens_holds_none(name: str, value: object) -> None:
    assert tokens.parse(GOOD | {name: value}, Facts()) is None
    assert tokens.parse({k: v for k, v in GOOD.items() if k != name}, Facts()) is None


def test_an_access_token_of_8192_characters_is_taken() -> None:
    assert parsed(access_token="a" * 8192).access_token == Secret("a" * 8192)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, ANYTHING)))
def test_no_answer_makes_the_reading_fail_and_lifetimes_stay_in_bounds(body: dict[str, Any]) -> None:
    check(tokens.parse(body, Facts()))
    check(tokens.parse(GOOD | {k: v for k, v in body.items() if "token" not in k or "expires" in k}, Facts()))


def check(found: TokenSet | None) -> None:
    if found is None:
        return
    assert SHORTEST_ACCESS <= found.access_lifetime <= LONGEST_ACCESS
    for lifetime in (found.refresh_lifetime, found.hard_lifetime):
        assert lifetime is None or timedelta(0) <= lifetime <= LONGEST_GRANT


@given(st.text() | ANYTHING.map(json.dumps))
def test_no_text_makes_decoding_or_salvaging_fail(text: str) -> None:
    assert isinstance(tokens.decode(text), dict | None)
    assert isinstance(tokens.salvage(text), Secret | None)


@pytest.mark.parametrize("text", ["", "null", "[]", "7", "{", "[" * 100_000, '{"a": ' * 100_000, "9" * 5000])
def test_what_is_no_json_object_decodes_to_none(text: str) -> None:
    assert tokens.decode(text) is None


@given(st.integers(0, len(json.dumps(GOOD))))
def test_a_token_is_salvaged_from_an_answer_cut_anywhere_after_its_closing_quote_and_never_before(cut: int) -> None:
    text = json.dumps(GOOD)
    closed = text.index(REFRESH) + len(REFRESH) + 1
    assert tokens.salvage(text[:cut]) == (Secret(REFRESH) if cut >= closed else None)


@pytest.mark.parametrize(
    "text",
    [
        '{"refresh_token": "short"}',
        '{"refresh_token": "' + "x" * 8193 + '"}',
        '{"refresh_token": "' + "x" * 513 + '", "cut',
        '{"refresh_token": "with a space in the middle of it"}',
        '{"refresh_token": "escaped\\u0020characters-are-not-read"}',
        '{"x_refresh_token": "' + REFRESH + '"}',
        "<html>refresh_token " + REFRESH + "</html>",
    ],
)
def test_what_is_not_surely_a_whole_token_is_not_salvaged(text: str) -> None:
    assert tokens.salvage(text) is None
