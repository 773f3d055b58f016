import html
import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

import intuit_simulator
from intuit_simulator import CreatedGrant, Simulator, SimulatorError, fingerprint

DAY = 86_400
REDIRECT = "http://localhost:9/callback?from=intuit"


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    with intuit_simulator.start() as simulator:
        yield simulator


@pytest.fixture
def simulator(process: Simulator) -> Simulator:
    process.reset()
    return process


def post(
    simulator: Simulator, form: dict[str, str], *, secret: str | None = None, headers: dict[str, str] | None = None
) -> requests.Response:
    auth = (simulator.client_id, secret or simulator.client_secret)
    return requests.post(simulator.token_url, data=form, auth=auth, headers=headers, timeout=10)


def refresh(simulator: Simulator, token: str, *, secret: str | None = None) -> requests.Response:
    return post(simulator, {"grant_type": "refresh_token", "refresh_token": token}, secret=secret)


def exchange(simulator: Simulator, code: str) -> requests.Response:
    return post(simulator, {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT})


def test_a_refresh_answers_as_intuit_does(simulator: Simulator) -> None:
    grant = simulator.create_grant()
    answer = refresh(simulator, grant.refresh_token)
    assert answer.status_code == 200
    assert answer.headers["intuit_tid"]
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    body = answer.json()
    assert set(body) == {"token_type", "expires_in", "refresh_token", "x_refresh_token_expires_in", "access_token"}
    assert (body["token_type"], body["expires_in"], body["x_refresh_token_expires_in"]) == ("bearer", 3600, 8_726_400)
    assert body["refresh_token"] == simulator.state(grant.realm_id).refresh_token != grant.refresh_token


def test_the_hard_expiry_is_told_only_to_those_who_ask(simulator: Simulator) -> None:
    grant = simulator.create_grant(granted_ago=1000 * DAY)
    asking = {"x-include-refresh-token-hard-expires-in": "true"}
    form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token}
    left = post(simulator, form, headers=asking).json()["x_refresh_token_hard_expires_in"]
    assert left == pytest.approx(157_680_000 - 1000 * DAY, abs=60)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "authorization_code", "code": "x"}, "invalid_request"),
        ({"grant_type": "password", "username": "x"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token", "refresh_token": "RT1-invented"}, "invalid_grant"),
        ({"grant_type": "authorization_code", "code": "bogus", "redirect_uri": REDIRECT}, "invalid_grant"),
    ],
)
def test_a_wrong_request_has_a_real_error_body(simulator: Simulator, form: dict[str, str], error: str) -> None:
    answer = post(simulator, form)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_wrong_keys_are_refused_before_anything_else_and_spend_nothing(simulator: Simulator) -> None:
    grant = simulator.create_grant()
    for secret in ("wrong", simulator.client_secret + "x"):
        answer = refresh(simulator, grant.refresh_token, secret=secret)
        assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})
    assert refresh(simulator, grant.refresh_token).ok


def test_secrets_rotate_with_two_valid_at_once(simulator: Simulator) -> None:
    simulator.set_secrets("old", "new")
    token = simulator.create_grant().refresh_token
    for secret in ("old", "new"):
        token = refresh(simulator, token, secret=secret).json()["refresh_token"]
    simulator.set_secrets("new")
    assert refresh(simulator, token, secret="old").status_code == 401
    assert refresh(simulator, token, secret="new").ok


def test_another_apps_token_is_refused_by_name_and_not_spent(simulator: Simulator) -> None:
    simulator.set_secrets("s", client_id="other")
    grant = simulator.create_grant(client_id="other")
    answer = refresh(simulator, grant.refresh_token)
    assert answer.json() == {"error": "invalid_grant", "error_description": "Incorrect Token type or clientID"}
    assert simulator.state(grant.realm_id).refreshes == 0
    assert simulator.state(grant.realm_id).alive


def test_time_moves_by_order_and_ends_grants(simulator: Simulator) -> None:
    grant = simulator.create_grant()
    simulator.advance(101 * DAY)
    assert simulator.state(grant.realm_id).ended == "unused for too long"
    assert refresh(simulator, grant.refresh_token).json()["error_description"] == "Token invalid"
    simulator.set_time(2_000_000_000)
    assert simulator.now() == pytest.approx(2_000_000_000, abs=60)


def test_the_policy_changes_at_run_time(simulator: Simulator) -> None:
    simulator.set_policy("daily")
    grant = simulator.create_grant()
    assert refresh(simulator, grant.refresh_token).json()["refresh_token"] == grant.refresh_token
    simulator.set_policy("strict", access_seconds=60)
    body = refresh(simulator, grant.refresh_token).json()
    assert body["refresh_token"] != grant.refresh_token
    assert body["expires_in"] == 60


def test_a_revoked_grant_is_refused_whoever_revoked_it(simulator: Simulator) -> None:
    by_user, by_app = simulator.create_grants(2)
    simulator.revoke(by_user.realm_id)
    auth = (simulator.client_id, simulator.client_secret)
    for expected in (200, 400):
        answer = requests.post(simulator.revoke_url, json={"token": by_app.refresh_token}, auth=auth, timeout=10)
        assert answer.status_code == expected
    for grant in (by_user, by_app):
        assert refresh(simulator, grant.refresh_token).json()["error"] == "invalid_grant"
    assert [state.ended for state in simulator.states()] == ["revoked by the user", "revoked by the app"]


def test_consent_in_a_browser_leads_to_a_grant(simulator: Simulator) -> None:
    known = simulator.create_grant()
    query = {
        "client_id": simulator.client_id,
        "response_type": "code",
        "scope": "com.intuit.quickbooks.accounting",
        "redirect_uri": REDIRECT,
        "state": '"><b>',
    }
    page = requests.get(simulator.authorize_url, params=query, timeout=10).text
    assert known.realm_id in page
    assert query["state"] not in page
    hidden = {
        name: html.unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="(.*)"', page)
    }
    allowed = decide(simulator, {**hidden, "realm": known.realm_id, "decision": "allow"})
    assert (allowed["state"], allowed["realmId"], allowed["from"]) == (query["state"], known.realm_id, "intuit")
    answer = exchange(simulator, allowed["code"])
    assert answer.ok
    assert "realmId" not in answer.json()
    assert refresh(simulator, known.refresh_token).status_code == 400, "the later consent replaces the first"
    assert decide(simulator, {**hidden, "decision": "deny"})["error"] == "access_denied"


def decide(simulator: Simulator, form: dict[str, str]) -> dict[str, str]:
    answer = requests.post(simulator.authorize_url, data=form, allow_redirects=False, timeout=10)
    assert answer.status_code == 302
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


def test_consent_redirects_to_loopback_only(simulator: Simulator) -> None:
    query = {
        "client_id": simulator.client_id,
        "response_type": "code",
        "scope": "x",
        "redirect_uri": "https://example.com",
    }
    assert requests.get(simulator.authorize_url, params=query, timeout=10).status_code == 400
    with pytest.raises(SimulatorError, match="loopback"):
        simulator.create_code("https://example.com")


def test_a_code_can_be_had_without_a_browser(simulator: Simulator) -> None:
    code, realm_id = simulator.create_code(REDIRECT)
    answer = exchange(simulator, code)
    assert simulator.state(realm_id).refresh_token == answer.json()["refresh_token"]


@pytest.mark.parametrize("name", ["openid_configuration", "openid_sandbox_configuration"])
def test_discovery_names_the_endpoints(simulator: Simulator, name: str) -> None:
    found = requests.get(f"{simulator.base_url}/.well-known/{name}", timeout=10).json()
    assert found["token_endpoint"] == simulator.token_url
    assert found["revocation_endpoint"] == simulator.revoke_url
    assert found["authorization_endpoint"] == simulator.authorize_url


def test_the_admin_api_demands_its_key(simulator: Simulator) -> None:
    for key in ("", "wrong"):
        with pytest.raises(SimulatorError) as caught:
            Simulator(simulator.base_url, key).reset()
        assert caught.value.status == 401


def test_an_unknown_admin_call_says_so(simulator: Simulator) -> None:
    with pytest.raises(SimulatorError, match="404"):
        simulator.clear_fault("none")
    with pytest.raises(SimulatorError, match="no grant for realm 5"):
        simulator.state("5")


def test_the_journal_names_tokens_and_secrets_by_fingerprint_only(simulator: Simulator) -> None:
    grant = simulator.create_grant()
    started = time.monotonic()
    new = refresh(simulator, grant.refresh_token).json()["refresh_token"]
    refresh(simulator, grant.refresh_token)
    first, second = simulator.journal()
    assert started <= first.started <= first.ended <= second.started
    assert (first.presented, first.issued) == (fingerprint(grant.refresh_token), fingerprint(new))
    assert first.secret == fingerprint(simulator.client_secret)
    assert (first.status, first.rotated, first.superseded, first.written) == (200, True, False, True)
    assert (second.status, second.error, second.rotated, second.superseded) == (400, "invalid_grant", False, True)
    assert not first.overlapped
    assert not second.overlapped
    assert simulator.journal(after=1) == [second]
    assert simulator.check(after=1).calls == 1


def test_the_journal_can_be_switched_off(simulator: Simulator) -> None:
    simulator.empty_journal(keeps=False)
    refresh(simulator, simulator.create_grant().refresh_token)
    assert simulator.journal() == []
    assert simulator.status()["calls"] == 1
    with pytest.raises(SimulatorError, match="switched off"):
        simulator.check()


def test_grants_are_made_in_bulk_and_listed(simulator: Simulator) -> None:
    made = simulator.create_grants(20_000, access_tokens=True)
    assert len({grant.realm_id for grant in made}) == 20_000
    assert all(grant.access_token for grant in made)
    assert {state.refresh_token for state in simulator.states()} == {grant.refresh_token for grant in made}


def test_named_realms_get_their_grants(simulator: Simulator) -> None:
    made: list[CreatedGrant] = simulator.create_grants(realm_ids=["77", "78"], issued_ago=DAY)
    assert [grant.realm_id for grant in made] == ["77", "78"]
    assert simulator.state("77").issued_at == pytest.approx(simulator.now() - DAY, abs=60)


def test_a_reset_returns_to_the_beginning(simulator: Simulator) -> None:
    simulator.create_grant()
    simulator.set_policy("daily")
    simulator.advance(DAY)
    simulator.fault("drop")
    simulator.reset()
    status = simulator.status()
    assert (status["grants"], status["faults"], status["calls"], status["policy"]["name"]) == (0, 0, 0, "strict")
    assert status["now"] == pytest.approx(time.time(), abs=60)
