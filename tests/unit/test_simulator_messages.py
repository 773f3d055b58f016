import base64

import pytest

from intuit_simulator.clients import Clients, Presented, parse_basic
from intuit_simulator.consent import is_loopback
from intuit_simulator.journal import Call, Journal, summarise
from intuit_simulator.messages import parse_form

FORM = "application/x-www-form-urlencoded"
USUAL = Call(
    sequence=1,
    endpoint="token",
    started=0.0,
    ended=1.0,
    realm_id="1",
    presented="aa",
    grant_type="refresh_token",
    client_id="app",
    secret="ss",
    status=200,
    error=None,
    rotated=True,
    issued="bb",
    overlapped=False,
    superseded=False,
    revoked_by_reuse=False,
    faults=None,
    written=True,
)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_a_basic_header_splits_at_the_first_colon() -> None:
    assert parse_basic(basic("app:se:cret")) == Presented("app", "se:cret")


@pytest.mark.parametrize("header", [None, "", "Bearer x", "Basic !", basic("no colon"), "Basic /w=="])
def test_a_malformed_header_names_no_client(header: str | None) -> None:
    assert parse_basic(header) is None


def test_several_secrets_are_valid_during_a_rotation_and_none_locks_the_app_out() -> None:
    clients = Clients({"app": ["old", "new"]})
    assert clients.accept(Presented("app", "old"))
    assert clients.accept(Presented("app", "new"))
    assert not clients.accept(Presented("other", "new"))
    assert not clients.accept(None)
    clients.set_secrets("app", [])
    assert not clients.accept(Presented("app", "new"))


def test_a_form_is_read_with_its_escapes() -> None:
    assert parse_form(FORM + "; charset=utf-8", b"a=1%202&b=") == {"a": "1 2", "b": ""}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", b"{}"), ("", b"a=1"), (FORM, b"a=1&a=2"), (FORM, b"nonsense"), (FORM, b"\xff=1")],
)
def test_what_is_not_a_form_or_names_a_parameter_twice_is_none(content_type: str, body: bytes) -> None:
    assert parse_form(content_type, body) is None


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://localhost:8000/callback", True),
        ("http://127.0.0.1/", True),
        ("http://[::1]:1/", True),
        ("https://example.com/", False),
        ("http://localhost.example.com/", False),
        ("javascript://localhost/", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_only_loopback_is_redirected_to(uri: str, expected: bool) -> None:  # noqa: FBT001
    assert is_loopback(uri) is expected


def test_a_journal_is_paged_by_sequence_and_may_be_off() -> None:
    journal = Journal()
    for sequence in range(1, 6):
        journal.append(USUAL._replace(sequence=sequence))
    assert [call.sequence for call in journal.read(after=2, limit=2)] == [3, 4]
    assert [call.sequence for call in journal.read(after=4)] == [5]
    assert list(journal.read(after=9)) == []
    silent = Journal(keeps=False)
    silent.append(USUAL)
    assert (silent.count, list(silent.read())) == (1, [])


def test_a_summary_counts_what_a_careful_client_never_does() -> None:
    check = summarise(
        [
            USUAL,
            USUAL._replace(presented="bb", written=False, faults="cut:f1"),
            USUAL._replace(presented="aa", overlapped=True, superseded=True, status=400, error="invalid_grant"),
            USUAL._replace(realm_id="2", presented="cc", status=None, rotated=False, written=False),
            USUAL._replace(realm_id=None, presented="dd", rotated=False, status=400, error="invalid_grant"),
            USUAL._replace(endpoint="revoke", grant_type=None, rotated=False),
        ]
    )
    assert (check.calls, check.refreshes, check.revocations) == (6, 5, 1)
    assert (check.overlapping, check.superseded, check.presented_again) == (1, 1, 1)
    assert (check.unwritten, check.rotated_unwritten, check.faulted) == (2, 1, 1)
    assert (check.grants, check.calls_per_grant) == (2, {1: 1, 3: 1})
    assert check.answers == {"200": 3, "400 invalid_grant": 2, "none": 1}
