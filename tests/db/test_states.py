from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

import qbo_refresh
from qbo_refresh import configuration, consent_state
from qbo_refresh.errors import ConfigurationError, InvalidState, UnknownConnection
from qbo_refresh.sealing import Field as Sealed
from qbo_refresh.sealing import Unsealable, authorization_place, new_key
from qbo_refresh.secret import Secret
from tests.support.consents import REDIRECT

if TYPE_CHECKING:
    from tests.support.consents import CalledBack, Consents
    from tests.support.fleet import Fleet

SESSION = "a browser's session, somewhere"


def refused(consents: Consents, brought: CalledBack) -> str:
    with pytest.raises(InvalidState) as raised:
        consents.accept(brought)
    assert raised.value.reason not in str(raised.value), "no detail for who forged it"
    return raised.value.reason


def rows(fleet: Fleet) -> list[object]:
    return [row.used_at for row in fleet.db.execute("SELECT used_at FROM qbo.authorizations ORDER BY id")]


@pytest.mark.usefixtures("consents")
def test_the_link_goes_to_intuit_with_all_that_it_asks_for(fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    url = urlsplit(qbo_refresh.authorize_url(connected.id, SESSION))
    assert url._replace(query="").geturl() == fleet.simulator.authorize_url
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    state = query.pop("state")
    assert query == {
        "client_id": fleet.simulator.client_id,
        "response_type": "code",
        "scope": "com.intuit.quickbooks.accounting",
        "redirect_uri": REDIRECT,
    }
    assert SESSION not in state
    row = fleet.db.execute("SELECT *, expires_at - created_at AS lives FROM qbo.authorizations").one()
    assert (row.connection_id, row.lives, row.used_at) == (connected.id, timedelta(minutes=10), None)
    assert state.encode() not in bytes(row.state_hash)


def test_a_state_of_this_session_is_taken_once_and_the_same_call_again_is_the_same(
    fleet: Fleet, consents: Consents
) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    authorization_id = consents.accept(brought)
    assert consents.accept(brought) == authorization_id
    # Fails without `used_at IS NULL` and the comparison of code_hash: seen.
    assert refused(consents, replace(brought, code=brought.code + "x")) == "used"
    assert refused(consents, replace(brought, realm_id="9130350000000000")) == "used"


def test_a_state_of_another_session_is_refused(fleet: Fleet, consents: Consents) -> None:
    # Fails without the session's hash in the signature and in the row: seen.
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    assert refused(consents, replace(brought, session=SESSION)) == "signature"
    assert rows(fleet) == [None]


def test_a_session_is_compared_in_the_row_too(fleet: Fleet, consents: Consents) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    nonce = base64.urlsafe_b64decode(brought.state.split(".")[-2])
    forged, _ = consent_state.signed(consents.config, nonce, Secret(SESSION))  # as only a thief of the keys could
    assert refused(consents, replace(brought, state=forged, session=SESSION)) == "session"


def test_a_state_that_was_changed_anywhere_is_refused(fleet: Fleet, consents: Consents) -> None:
    # Fails without the comparison of signatures: seen.
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    key, nonce, signature = brought.state.rsplit(".", 2)
    other = "A" * len(nonce)
    for state in (f"{key}.{other}.{signature}", f"{key}.{nonce}.{'A' * len(signature)}"):
        assert refused(consents, replace(brought, state=state)) == "signature"
    assert refused(consents, replace(brought, state=f"other.{nonce}.{signature}")) == "unknown_key"
    for state in ("", "x", "a.b.c", brought.state + ".", f"{key}.{nonce}", "\x00", f"{key}.{nonce}.{signature}\n"):
        assert refused(consents, replace(brought, state=state)) == "malformed"
    assert rows(fleet) == [None]


def test_a_state_is_good_for_ten_minutes(fleet: Fleet, consents: Consents) -> None:
    # Fails without `expires_at > now()`: seen.
    (connected,) = fleet.connect()
    early, late = (consents.consent(connected.id, connected.realm_id) for _ in range(2))
    fleet.let_pass(timedelta(seconds=595))
    authorization_id = consents.accept(early)
    fleet.let_pass(timedelta(seconds=6))
    assert refused(consents, late) == "expired"
    assert consents.accept(early) == authorization_id, "one that was in time is answered later, too"


def test_a_state_whose_row_is_gone_is_refused(fleet: Fleet, consents: Consents) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    fleet.db.execute("DELETE FROM qbo.authorizations")
    assert refused(consents, brought) == "unknown"


@pytest.mark.parametrize("changes", [{"code": ""}, {"code": "a b"}, {"realm_id": ""}, {"realm_id": "1" * 65}])
def test_a_callback_without_a_sensible_code_or_company_is_refused(
    fleet: Fleet, consents: Consents, changes: dict[str, str]
) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    assert refused(consents, replace(brought, **changes)) == "malformed"
    consents.accept(brought)


def test_code_and_company_are_sealed_for_their_row(fleet: Fleet, consents: Consents) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    consents.accept(brought)
    row = fleet.db.execute("SELECT * FROM qbo.authorizations").one()
    for blob, field, clear in ((row.code, Sealed.CODE, brought.code),
                               (row.realm_id, Sealed.CONSENTED_REALM_ID, brought.realm_id)):  # fmt: skip
        assert clear.encode() not in blob
        place = authorization_place("sandbox", row.id, field)
        assert fleet.keyring.open(blob, place).reveal() == clear
        with pytest.raises(Unsealable):
            fleet.keyring.open(blob, replace(place, connection_id=row.id + 1))


def test_a_link_outlives_a_new_key(fleet: Fleet, consents: Consents, environment: dict[str, str]) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    configuration.configure(
        database_url=environment["DATABASE_URL"], token_keys=f"next:{new_key()},{environment['TOKEN_KEYS']}"
    )
    consents.config = configuration.current()
    assert consents.accept(brought)


@pytest.mark.usefixtures("consents")
@pytest.mark.parametrize("nonce", ["", "short", None])
def test_a_session_nonce_that_anybody_could_guess_is_refused(nonce: str) -> None:
    with pytest.raises(ValueError, match="session_nonce must be a random string"):
        qbo_refresh.authorize_url("external:new", nonce)


@pytest.mark.parametrize("nonce", ["", None])
def test_a_browser_that_comes_back_without_its_session_is_told_to_start_again(
    fleet: Fleet, consents: Consents, nonce: str
) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    with pytest.raises(InvalidState) as raised:
        qbo_refresh.complete(brought.code, brought.state, connected.realm_id, nonce)
    assert raised.value.reason == "session"


@pytest.mark.parametrize("missing", range(3))
def test_a_callback_that_lacks_a_part_of_its_query_is_refused(fleet: Fleet, consents: Consents, missing: int) -> None:
    (connected,) = fleet.connect()
    arguments = list(consents.consent(connected.id, connected.realm_id).arguments())
    arguments[missing] = ""
    with pytest.raises(InvalidState) as raised:
        qbo_refresh.complete(*arguments)
    assert raised.value.reason == "malformed"


@pytest.mark.usefixtures("consents")
@pytest.mark.parametrize("name", [7, "7", "realm:1", ""])
def test_a_link_for_what_is_not_there_is_refused(name: int | str) -> None:
    with pytest.raises(
        UnknownConnection, match=r"No connection has the id 7|is named by our id|no name of a connection"
    ):
        qbo_refresh.authorize_url(name, SESSION)


@pytest.mark.usefixtures("consents")
@pytest.mark.parametrize("value", ["a\0b", "a\tb", "a\x85b", "a\ud800b", "x" * 201])
def test_no_link_is_made_for_a_new_name_that_nothing_should_be_called(fleet: Fleet, value: str) -> None:
    with pytest.raises(UnknownConnection):
        qbo_refresh.authorize_url(f"external:{value}", SESSION)
    assert rows(fleet) == []


@pytest.mark.usefixtures("consents")
def test_a_name_with_control_characters_that_the_import_has_brought_is_reconnected(fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute(
        "INSERT INTO qbo.external_ids (external_id, connection_id) VALUES ('a\tb', %(id)s)", {"id": connected.id}
    )
    assert qbo_refresh.authorize_url("external:a\tb", SESSION)


@pytest.mark.usefixtures("consents")
@pytest.mark.parametrize("argument", ["label", "environment", "client_id"])
@pytest.mark.parametrize("value", ["a\0b", "a\ud800b", "x" * 201])
def test_an_argument_that_no_column_can_hold_is_refused_as_such(argument: str, value: str) -> None:
    options: dict[str, Any] = {argument: value}
    with pytest.raises(ValueError, match=f"{argument} must be a text"):
        qbo_refresh.authorize_url("external:new", SESSION, **options)


def test_half_a_surrogate_pair_in_what_a_browser_brings_is_refused_as_another_session(
    fleet: Fleet, consents: Consents
) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent(connected.id, connected.realm_id)
    with pytest.raises(InvalidState) as raised:
        qbo_refresh.complete(brought.code, brought.state, connected.realm_id, SESSION + "\ud800")
    assert raised.value.reason == "signature"


@pytest.mark.usefixtures("consents")
def test_a_new_connection_of_a_worker_with_several_apps_must_say_which(fleet: Fleet) -> None:
    fleet.db.execute("INSERT INTO qbo.apps (environment, client_id) VALUES ('production', 'another')")
    with pytest.raises(ConfigurationError, match="name environment and client_id"):
        qbo_refresh.authorize_url("external:new", SESSION)
    url = qbo_refresh.authorize_url("external:new", SESSION, environment="production")
    assert parse_qs(urlsplit(url).query)["client_id"] == ["another"]


def test_without_a_callback_of_ones_own_no_link_is_made(consents: Consents) -> None:
    configuration.use(replace(consents.config, redirect_url=None))
    with pytest.raises(ConfigurationError, match="INTUIT_REDIRECT_URL is not set"):
        qbo_refresh.authorize_url("external:new", SESSION)
