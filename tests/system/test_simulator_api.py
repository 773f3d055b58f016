from collections.abc import Iterator
from typing import Any

import pytest
import requests

import intuit_simulator
from intuit_simulator import Simulator


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    with intuit_simulator.start() as simulator:
        yield simulator


@pytest.fixture
def simulator(process: Simulator) -> Simulator:
    process.reset()
    return process


def connected(simulator: Simulator) -> tuple[str, str]:
    """Return the realm id and the access token of a new grant."""
    grant = simulator.create_grant(access_tokens=True)
    assert grant.access_token is not None
    return grant.realm_id, grant.access_token


def call(simulator: Simulator, path: str, token: str | None, **query: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(f"{simulator.api_url}/v3/company/{path}", params=query, headers=headers, timeout=10)


def fault_of(answer: requests.Response) -> tuple[int, str, str]:
    fault: dict[str, Any] = answer.json()["fault"]
    (error,) = fault["error"]
    assert f"errorCode=00{error['code']}; statusCode={answer.status_code}" in error["message"]
    return answer.status_code, error["code"], fault["type"]


def test_a_living_access_token_reads_its_company(simulator: Simulator) -> None:
    realm, token = connected(simulator)
    answer = call(simulator, f"{realm}/companyinfo/{realm}", token)
    assert answer.status_code == 200
    assert answer.json()["CompanyInfo"]["CompanyName"] == f"Company {realm}"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select * from Invoice", {"startPosition": 1, "maxResults": 3}),
        ("SELECT Id, DisplayName FROM customer WHERE Active = true", {"startPosition": 1, "maxResults": 3}),
        ("select count(*) from Bill", {"totalCount": 3}),
        ("select * from Nothing", {}),
    ],
)
def test_a_query_is_answered_in_intuits_shape(simulator: Simulator, query: str, expected: dict[str, int]) -> None:
    realm, token = connected(simulator)
    response = call(simulator, f"{realm}/query", token, query=query).json()["QueryResponse"]
    rows = [value for value in response.values() if isinstance(value, list)]
    assert {name: value for name, value in response.items() if not isinstance(value, list)} == expected
    assert all(len(each) == 3 and each[0]["Id"] == "1" for each in rows)


def test_what_is_no_query_and_what_is_no_call_is_refused(simulator: Simulator) -> None:
    realm, token = connected(simulator)
    for path, code in ((f"{realm}/query", "4000"), (f"{realm}/invoice/1", "500")):
        answer = call(simulator, path, token)
        assert (answer.status_code, answer.json()["Fault"]["Error"][0]["code"]) == (400, code)


@pytest.mark.parametrize(
    "token", [None, "invented", "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4Q0JDLUhTMjU2IiwieC5vcmciOiJIMCJ9.."]
)
def test_an_unknown_token_is_a_401_with_3200(simulator: Simulator, token: str | None) -> None:
    realm, _ = connected(simulator)
    answer = call(simulator, f"{realm}/companyinfo/{realm}", token)
    assert fault_of(answer) == (401, "3200", "AUTHENTICATION")


def test_a_token_dies_with_its_hour(simulator: Simulator) -> None:
    realm, token = connected(simulator)
    simulator.advance(3590)
    assert call(simulator, f"{realm}/companyinfo/{realm}", token).status_code == 200
    simulator.advance(11)
    assert fault_of(call(simulator, f"{realm}/companyinfo/{realm}", token)) == (401, "3200", "AUTHENTICATION")


def test_a_token_dies_with_its_grant(simulator: Simulator) -> None:
    realm, token = connected(simulator)
    simulator.revoke(realm)
    assert fault_of(call(simulator, f"{realm}/query", token, query="select * from Item"))[:2] == (401, "3200")


def test_a_refresh_replaces_the_access_token(simulator: Simulator) -> None:
    grant = simulator.create_grant(access_tokens=True)
    form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token}
    auth = (simulator.client_id, simulator.client_secret)
    newer = requests.post(simulator.token_url, data=form, auth=auth, timeout=10).json()["access_token"]
    path = f"{grant.realm_id}/companyinfo/{grant.realm_id}"
    assert [call(simulator, path, token).status_code for token in (grant.access_token, newer)] == [401, 200]


def test_another_companys_token_is_a_403_with_3100(simulator: Simulator) -> None:
    _, token = connected(simulator)
    realm, _ = connected(simulator)
    answer = call(simulator, f"{realm}/companyinfo/{realm}", token)
    assert fault_of(answer) == (403, "3100", "SERVICE")
    assert simulator.status()["api_answers"] == {"403": 1}
