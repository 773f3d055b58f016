import pytest

from intuit_simulator import policy, tokens
from intuit_simulator.book import DEAD_TOKEN, OTHER_APP, OVERLAP, UNKNOWN_TOKEN, Book, Issued, Refusal
from intuit_simulator.grants import REMEMBERED, Grant, Token

NOW = 1_800_000_000.0
DAY = 86_400
APP = "app"


def book(name: str = "strict", **settings: float) -> Book:
    return Book(policy.make(name, **settings))


def refreshed(records: Book, token: Token, now: float = NOW) -> Token:
    outcome = records.refresh(token, APP, now)
    assert isinstance(outcome, Issued), outcome
    return outcome.token


def refused(records: Book, token: Token | None, now: float = NOW, app: str = APP) -> Refusal:
    outcome = records.refresh(token, app, now)
    assert isinstance(outcome, Refusal), outcome
    return outcome


def granted(records: Book, now: float = NOW) -> tuple[Grant, Token]:
    grant = records.create("1", APP, now)
    return grant, grant.current


@pytest.mark.parametrize("name", ["strict", "grace", "reuse-revokes"])
def test_each_refresh_brings_a_new_value(name: str) -> None:
    records = book(name)
    _, first = granted(records)
    second = refreshed(records, first)
    assert second.value != first.value
    assert refreshed(records, second).value != second.value


def test_strict_refuses_a_replaced_token_and_the_grant_lives_on() -> None:
    records = book("strict")
    _, first = granted(records)
    second = refreshed(records, first)
    assert refused(records, first) == DEAD_TOKEN
    refreshed(records, second)


def test_grace_takes_a_replaced_token_and_answers_with_a_new_one_of_the_same_grant() -> None:
    records = book("grace", grace_seconds=60)
    grant, first = granted(records)
    second = refreshed(records, first)
    third = refreshed(records, first, NOW + 59)
    assert grant.current is third
    assert refused(records, first, NOW + 60) == DEAD_TOKEN
    assert refreshed(records, second, NOW + 118).grant is grant
    assert grant.ended is None


def test_reuse_revokes_ends_the_grant_with_its_live_token() -> None:
    records = book("reuse-revokes")
    grant, first = granted(records)
    second = refreshed(records, first)
    assert refused(records, first) == DEAD_TOKEN
    assert grant.ended == "reuse of a token"
    assert refused(records, second) == DEAD_TOKEN


def test_daily_returns_the_same_value_with_its_time_counting_down_until_a_day_has_passed() -> None:
    records = book("daily")
    _, token = granted(records)
    early = records.refresh(token, APP, NOW + DAY - 1)
    assert isinstance(early, Issued)
    assert (early.token, early.rotated, early.refresh_expires_in) == (token, False, 8_726_400 - DAY + 1)
    late = records.refresh(token, APP, NOW + DAY)
    assert isinstance(late, Issued)
    assert (late.rotated, late.refresh_expires_in) == (True, 8_726_400)
    assert refused(records, token, NOW + DAY) == DEAD_TOKEN


def test_an_unused_grant_dies_when_its_window_closes_and_a_refresh_reopens_it() -> None:
    records = book(window_seconds=100)
    grant, first = granted(records)
    second = refreshed(records, first, NOW + 99)
    refreshed(records, second, NOW + 198)
    assert refused(records, grant.current, NOW + 298) == DEAD_TOKEN
    assert grant.state(records.policy, NOW + 298).ended == "unused for too long"


def test_the_hard_expiry_is_moved_by_no_refresh() -> None:
    records = book(hard_seconds=100)
    grant, first = granted(records)
    outcome = records.refresh(first, APP, NOW + 90)
    assert isinstance(outcome, Issued)
    assert (outcome.refresh_expires_in, outcome.hard_expires_in) == (10, 10)
    assert refused(records, grant.current, NOW + 100) == DEAD_TOKEN
    assert grant.state(records.policy, NOW + 100).ended == "hard expiry"


def test_another_apps_keys_do_not_spend_a_token() -> None:
    records = book("reuse-revokes")
    _, token = granted(records)
    assert refused(records, token, app="other") == OTHER_APP
    refreshed(records, token)


def test_an_invented_token_is_refused() -> None:
    assert refused(book(), None) == UNKNOWN_TOKEN


@pytest.mark.parametrize(("name", "survives"), [("strict", True), ("grace", True), ("reuse-revokes", False)])
def test_the_second_of_two_overlapping_calls_is_refused(name: str, survives: bool) -> None:  # noqa: FBT001
    records = book(name)
    _, token = granted(records)
    assert records.refresh(token, APP, NOW, overlaps=True) == OVERLAP
    assert isinstance(records.refresh(token, APP, NOW), Issued) is survives


def test_calls_overlap_from_the_first_byte_of_one_to_the_last_byte_of_the_other() -> None:
    _, token = granted(book())
    assert not token.begin_call(first_byte_at=10.0)
    assert token.begin_call(first_byte_at=11.0)
    token.end_call(last_byte_at=12.0)
    token.end_call(last_byte_at=15.0)
    assert token.begin_call(first_byte_at=14.0), "its body came late, its first byte before the other's last"
    token.end_call(last_byte_at=15.5)
    assert not token.begin_call(first_byte_at=16.0)


def test_a_later_consent_ends_the_older_grant_of_app_and_realm() -> None:
    records = book()
    _, old = granted(records)
    _, new = granted(records)
    assert refused(records, old) == DEAD_TOKEN
    refreshed(records, new)


def test_revoking_an_old_grants_token_ends_the_present_one_too_unless_told_otherwise() -> None:
    for spreads in (True, False):
        records = book(revoke_spreads=spreads)
        _, old = granted(records)
        new, _ = granted(records)
        records.revoke(old.value, APP)
        assert (new.ended is not None) is spreads


def test_revoking_a_replaced_value_ends_its_grant_unless_told_otherwise() -> None:
    for ends in (True, False):
        records = book(revoke_replaced=ends)
        grant, old = granted(records)
        refreshed(records, old)
        records.revoke(old.value, APP)
        assert (grant.ended is not None) is ends


def test_a_grant_is_revoked_once_by_its_refresh_or_access_token() -> None:
    records = book()
    grant, token = granted(records)
    access = records.issue_access(grant, NOW, rotated=False).access_token
    assert records.revoke(access, "other") == OTHER_APP
    assert records.revoke(access, APP) is None
    assert records.revoke(token.value, APP) == Refusal(400, "invalid_grant", "Token invalid")
    assert refused(records, token) == DEAD_TOKEN


def test_a_code_is_spent_once_by_its_app_with_its_redirect_uri_within_ten_minutes() -> None:
    records = book()
    code = records.create_code(APP, "1", "http://localhost/cb", NOW)
    assert isinstance(records.exchange(code, "other", "http://localhost/cb", NOW), Refusal)
    assert isinstance(records.exchange(code, APP, "http://localhost/else", NOW), Refusal)
    assert isinstance(records.exchange(code, APP, "http://localhost/cb", NOW + 600), Refusal)
    assert isinstance(records.exchange(code, APP, "http://localhost/cb", NOW + 599), Issued)
    assert isinstance(records.exchange(code, APP, "http://localhost/cb", NOW + 599), Refusal)


def test_the_memory_of_replaced_tokens_is_bounded() -> None:
    records = book()
    grant, first = granted(records)
    for _ in range(REMEMBERED + 1):
        refreshed(records, grant.current)
    assert len(grant.superseded) == REMEMBERED
    assert records.find(first.value) is None


@pytest.mark.parametrize("settings", [{"window_seconds": -1}, {"reject_overlap": 1}, {"grace": 5}])
def test_a_wrong_policy_setting_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|unknown"):
        policy.make("strict", **settings)


def test_tokens_look_like_intuits_and_show_no_secret_in_a_repr() -> None:
    grant, token = granted(book())
    assert token.value.startswith("RT1-")
    assert len(token.value) == 41
    assert token.value not in repr(grant.state(policy.Policy(), NOW))
    assert tokens.key_of(tokens.access_token("k" * 24, 4096)) == "k" * 24
    assert len(tokens.access_token("k" * 24, 4096)) == 4096
