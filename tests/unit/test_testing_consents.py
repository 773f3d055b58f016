"""Consents on a fake: a host's two pages are tested without a database, a broker or a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

import qbo_refresh
from qbo_refresh import (
    ConfigurationError,
    ConsentFailed,
    InvalidState,
    SyncPaused,
    TemporarilyUnavailable,
    UnknownConnection,
    WrongRealm,
    configuration,
)
from qbo_refresh import testing as qbo_testing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbo_refresh.testing import FakeConnections

SESSION = "a browser's own nonce"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeConnections]:
    for name in ("DATABASE_URL", "CLIENT_KEYS", "TOKEN_KEYS", "INTUIT_REDIRECT_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"QBO_{name}", raising=False)
    before = configuration._current  # noqa: SLF001  # whatever another test has configured
    configuration.use(None)
    with qbo_testing.fake() as made:
        made.connect(7, realm_id="91", external_ids=["acme-1"])
        yield made
    configuration.use(before)


def state_for(connection: int | str, **options: Any) -> str:
    link = qbo_refresh.authorize_url(connection, SESSION, **options)
    (state,) = parse_qs(urlsplit(link).query)["state"]
    return state


def complete(state: str, realm_id: str = "91", *, code: str = "code", session: str = SESSION) -> int:
    return qbo_refresh.complete(code, state, realm_id, session).connection_id


@pytest.mark.usefixtures("connections")
def test_the_link_looks_as_the_real_one() -> None:
    link = urlsplit(qbo_refresh.authorize_url(7, SESSION))
    assert link._replace(query="").geturl() == configuration.AUTHORIZE_URL
    assert parse_qs(link.query).keys() == {"client_id", "response_type", "scope", "redirect_uri", "state"}


@pytest.mark.usefixtures("connections")
def test_a_new_name_becomes_a_connection_of_its_own() -> None:
    assert complete(state_for("external:acme-2"), "92") == 8
    assert qbo_refresh.access_token("external:acme-2").realm_id.reveal() == "92"
    assert complete(state_for("external:acme-3"), "92") == 8, "a company that is here gets one more name"
    assert qbo_refresh.ensure_syncable("external:acme-3") == 8


@pytest.mark.parametrize("name", [7, "7", "external:acme-1"])
def test_a_known_name_is_reconnected_and_its_syncs_resume(connections: FakeConnections, name: int | str) -> None:
    connections.pause(7)
    assert complete(state_for(name)) == 7
    assert qbo_refresh.ensure_syncable(7) == 7
    qbo_refresh.disconnect(name)
    with pytest.raises(SyncPaused):
        qbo_refresh.ensure_syncable(7)
    assert complete(state_for(name)) == 7
    assert qbo_refresh.access_token(7).version == 3


def test_another_company_than_the_expected_one_is_refused_by_name(connections: FakeConnections) -> None:
    connections.connect(8, realm_id="92", external_ids=["other"])
    connections.pause(7)
    for realm_id, got in (("92", "other"), ("93", None)):
        with pytest.raises(WrongRealm) as wrong:
            complete(state_for(7, label="Acme"), realm_id)
        assert (wrong.value.expected, wrong.value.got) == ("Acme", got)
    with pytest.raises(SyncPaused):
        qbo_refresh.ensure_syncable(7)


def test_of_two_connections_that_a_test_gave_no_company_each_is_reconnected(connections: FakeConnections) -> None:
    for number in (1, 2):
        connections.connect(number)
    for number in (1, 2):
        assert complete(state_for(number), "9130350000000001") == number


@pytest.mark.usefixtures("connections")
def test_a_state_is_good_for_one_code_and_one_company_and_the_same_call_again() -> None:
    state = state_for("external:acme-2")
    assert complete(state, "92") == complete(state, "92") == 8
    for other in ({"realm_id": "93"}, {"code": "another"}):
        with pytest.raises(InvalidState) as invalid:
            complete(state, **({"realm_id": "92"} | other))
        assert invalid.value.reason == "used"


@pytest.mark.usefixtures("connections")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": "forged"}, "unknown"),
        ({"state": None}, "unknown"),
        ({"session": "another session's nonce"}, "session"),
        ({"session": ""}, "session"),
        ({"code": ""}, "malformed"),
        ({"realm_id": "9 1"}, "malformed"),
    ],
)
def test_what_the_real_call_refuses_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidState) as invalid:
        complete(**({"state": state_for(7)} | change))
    assert invalid.value.reason == reason


@pytest.mark.usefixtures("connections")
def test_a_link_is_refused_as_the_real_one_is() -> None:
    for name in (8, "realm:91", "external:a\tb", "external:", "9" * 5000):
        with pytest.raises(UnknownConnection):
            qbo_refresh.authorize_url(name, SESSION)
    with pytest.raises(ValueError, match="session_nonce"):
        qbo_refresh.authorize_url(7, "short")
    with pytest.raises(ValueError, match="label"):
        qbo_refresh.authorize_url(7, SESSION, label="a\0b")


def test_a_consent_can_be_made_to_fail_for_good(connections: FakeConnections) -> None:
    state = state_for("external:acme-2")
    connections.fail_consents(ConsentFailed("answer_lost"))
    with pytest.raises(ConsentFailed, match="answer_lost"):
        complete(state, "92")
    connections.fail_consents(None)
    with pytest.raises(ConsentFailed, match="answer_lost"):
        complete(state, "92")
    with pytest.raises(UnknownConnection):
        qbo_refresh.ensure_syncable("external:acme-2")
    assert complete(state_for("external:acme-2"), "92") == 8


def test_a_consent_that_takes_longer_is_completed_by_the_same_call_again(connections: FakeConnections) -> None:
    state = state_for("external:acme-2")
    connections.fail_consents(TemporarilyUnavailable("in_progress", 2))
    with pytest.raises(TemporarilyUnavailable):
        complete(state, "92")
    connections.fail_consents(None)
    assert complete(state, "92") == 8


def test_after_the_block_consents_are_the_real_ones_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "_current", None)
    for name in ("QBO_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with qbo_testing.fake():
        state = state_for("external:acme-1")
    with pytest.raises(ConfigurationError):
        complete(state)
