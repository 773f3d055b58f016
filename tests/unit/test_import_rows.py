from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from qbo_refresh.sealing import Field, Keyring, Place, new_key, realm_place
from qbo_refresh.secret import Secret
from qbo_refresh.status import Status
from worker.importing import sealed
from worker.importing.judging import Action, judge
from worker.importing.layout import BadLine
from worker.importing.rows import AppIds, Row, understand
from worker.policy import DAY, NEAR_EXPIRY, until_slot
from worker.store.transfer.here import Found

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOKEN = "RT1-123-H0-made-up-for-a-test"
ONE: AppIds = {("production", "us"): 1}
SEVERAL: AppIds = {("production", "us"): 1, ("sandbox", "us"): 2, ("sandbox", "them"): 3}


def row(values: dict[str, str] | None = None, *, apps: AppIds = ONE) -> Row:
    return understand({"realm_id": "9130", "refresh_token": TOKEN} | (values or {}), 4, apps=apps, now=NOW)


def reasons(values: dict[str, str], *, apps: AppIds = ONE) -> tuple[str, ...]:
    with pytest.raises(BadLine) as caught:
        row(values, apps=apps)
    return caught.value.reasons


def test_the_least_a_line_may_say_is_realm_and_token() -> None:
    least = row()
    assert (least.line, least.app_id, least.environment) == (4, 1, "production")
    assert (least.realm_id, least.refresh_token) == (Secret("9130"), Secret(TOKEN))
    assert TOKEN not in repr(least)
    assert "9130" not in repr(least)


@pytest.mark.parametrize("missing", ["realm_id", "refresh_token"])
def test_without_realm_or_token_there_is_no_row(missing: str) -> None:
    values = {"realm_id": "9130", "refresh_token": TOKEN}
    del values[missing]
    with pytest.raises(BadLine, match=f"{missing} is missing"):
        understand(values, 1, apps=ONE, now=NOW)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"realm_id": "91 30"}, "realm_id is not 1 to 64 digits"),
        ({"realm_id": "9" * 65}, "realm_id is not 1 to 64 digits"),
        ({"realm_id": "acme-1"}, "realm_id is not 1 to 64 digits"),
        ({"realm_id": "-9130"}, "realm_id is not 1 to 64 digits"),
        ({"realm_id": "\N{ARABIC-INDIC DIGIT NINE}130"}, "realm_id is not 1 to 64 digits"),
        ({"realm_id": "9.13E+15"}, "realm_id was shortened to a power of ten by a spreadsheet: export it as text"),
        ({"refresh_token": "short"}, "refresh_token is not 8 to 4,096 visible ASCII characters"),
        ({"refresh_token": "with a space"}, "refresh_token is not 8 to 4,096 visible ASCII characters"),
        ({"refresh_token": "x" * 4097}, "refresh_token is not 8 to 4,096 visible ASCII characters"),
        ({"access_token": "ümlaute-im-token"}, "access_token is not 8 to 8,192 visible ASCII characters"),
        ({"label": "x" * 201}, "label is longer than 200 characters"),
        ({"external_id": "x" * 201}, "external_id is longer than 200 characters"),
        ({"environment": "staging"}, "environment is neither production nor sandbox"),
        ({"access_expires_at": "2026-03-01T12:00:00"}, "access_expires_at has no time zone: end it with Z or +00:00"),
        ({"token_obtained_at": "2026-03-01"}, "token_obtained_at has no time zone: end it with Z or +00:00"),
        (
            {"hard_expires_at": "1772366400"},
            "hard_expires_at is not a time in ISO 8601, such as 2026-01-31T12:00:00Z",
        ),
        (
            {"refresh_expires_at": "0001-01-01T00:00:00+14:00"},
            "refresh_expires_at is not between the years 2000 and 2199",
        ),
        ({"token_obtained_at": "2026-03-01T12:06:00Z"}, "token_obtained_at is in the future: its zone may be wrong"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_reason(values: dict[str, str], reason: str) -> None:
    assert reasons(values) == (reason,)


def test_every_reason_of_a_line_is_named() -> None:
    assert len(reasons({"realm_id": "9 1", "refresh_token": "x", "label": "x" * 201, "hard_expires_at": "soon"})) == 4


def test_a_reason_never_repeats_a_value() -> None:
    assert TOKEN not in str(reasons({"refresh_token": TOKEN + " ", "realm_id": TOKEN + " ", "label": TOKEN * 9}))


def test_times_of_every_zone_become_utc() -> None:
    assert row({"token_obtained_at": "2026-03-01T13:00:00+02:00"}).token_obtained_at == datetime(
        2026, 3, 1, 11, tzinfo=UTC
    )
    postgres = row({"refresh_expires_at": "2026-05-01 10:00:00.5-07"}).refresh_expires_at
    assert postgres == datetime(2026, 5, 1, 10, 0, 0, 500_000, tzinfo=timezone(-timedelta(hours=7)))


@pytest.mark.parametrize(
    ("values", "app_id"),
    [
        ({"environment": "production"}, 1),
        ({"environment": "Sandbox", "client_id": "us"}, 2),
        ({"client_id": "them"}, 3),
    ],
)
def test_a_row_names_its_app_as_far_as_it_must(values: dict[str, str], app_id: int) -> None:
    assert row(values, apps=SEVERAL).app_id == app_id


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "environment and client_id must be given"),
        ({"environment": "sandbox"}, "client_id must be given"),
        ({"client_id": "us"}, "environment must be given"),
        ({"environment": "production", "client_id": "them"}, "no app with this environment and client_id"),
        ({"client_id": "nobody"}, "no app with this environment and client_id"),
    ],
)
def test_a_row_of_no_one_app_is_refused(values: dict[str, str], reason: str) -> None:
    assert reason in reasons(values, apps=SEVERAL)[0]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"access_expires_at": "2026-03-01T12:30:00Z"}, True),
        ({"access_expires_at": "2026-03-01T12:00:00Z"}, False),
        ({}, False),
    ],
)
def test_an_access_token_is_kept_only_while_it_surely_lives(values: dict[str, str], kept: bool) -> None:  # noqa: FBT001
    taken = row(values | {"access_token": "eyJ.made.up"})
    assert (taken.access_token is not None, taken.access_expires_at is not None) == (kept, kept)


@pytest.mark.parametrize(
    ("values", "near"),
    [
        ({}, False),
        ({"refresh_expires_at": (NOW + NEAR_EXPIRY).isoformat()}, True),
        ({"refresh_expires_at": (NOW + NEAR_EXPIRY + timedelta(seconds=1)).isoformat()}, False),
        ({"refresh_expires_at": (NOW - timedelta(days=1)).isoformat()}, True),
        ({"token_obtained_at": (NOW - timedelta(days=90)).isoformat()}, True),
        ({"token_obtained_at": (NOW - timedelta(days=89)).isoformat()}, False),
        (
            {
                "token_obtained_at": (NOW - timedelta(days=95)).isoformat(),
                "refresh_expires_at": (NOW + timedelta(days=50)).isoformat(),
            },
            False,
        ),
    ],
)
def test_first_refreshes_are_spread_and_those_near_their_expiry_come_at_once(
    values: dict[str, str],
    near: bool,  # noqa: FBT001
) -> None:
    assert row(values).first_due_in(7, now=NOW) == (timedelta(0) if near else until_slot(7, now=NOW))


def test_a_thousand_first_refreshes_fill_the_day_evenly() -> None:
    hours = [int(row().first_due_in(each, now=NOW) / DAY * 24) for each in range(1, 1001)]
    assert all(35 <= hours.count(hour) <= 50 for hour in range(24))


OURS = Found(7, Status.ACTIVE, b"ours", 1, NOW - timedelta(days=1), knows_token=False)
NEWER, OLDER = NOW.isoformat(), (NOW - timedelta(days=2)).isoformat()


@pytest.mark.parametrize(
    ("values", "found", "expected"),
    [
        ({}, None, Action.NEW),
        ({}, replace(OURS, fingerprint=b"theirs"), Action.UNCHANGED),
        ({}, replace(OURS, knows_token=True), Action.SUPERSEDED),
        ({}, replace(OURS, knows_token=True, status=Status.DISCONNECTED, fingerprint=None), Action.SUPERSEDED),
        ({"token_obtained_at": NEWER}, replace(OURS, knows_token=True), Action.SUPERSEDED),
        ({"token_obtained_at": OLDER}, OURS, Action.OLDER),
        ({"token_obtained_at": NEWER}, OURS, Action.CANDIDATE),
        ({"token_obtained_at": OLDER}, replace(OURS, token_obtained_at=None), Action.CANDIDATE),
        ({"token_obtained_at": NEWER}, replace(OURS, status=Status.NEEDS_REAUTH), Action.CANDIDATE),
    ],
)
def test_what_a_line_comes_to_beside_what_is_here(
    values: dict[str, str], found: Found | None, expected: Action
) -> None:
    assert judge(row(values), b"theirs", found, holders=[7] if found else [], update=True) is expected


@pytest.mark.parametrize(
    ("values", "found", "update", "reason"),
    [
        ({}, OURS, True, "connection 7 of this realm holds another token: give token_obtained_at"),
        ({}, OURS, False, "connection 7 of this realm holds another token: give token_obtained_at"),
        ({"token_obtained_at": NEWER}, OURS, False, "holds another, older token: --update would try this one"),
        ({"token_obtained_at": NEWER}, replace(OURS, status=Status.DISCONNECTED), True, "was disconnected"),
    ],
)
def test_a_differing_token_without_leave_or_time_is_refused(
    values: dict[str, str],
    found: Found,
    update: bool,  # noqa: FBT001
    reason: str,
) -> None:
    with pytest.raises(BadLine, match=reason):
        judge(row(values), b"theirs", found, update=update)


def test_a_token_or_name_of_another_connection_is_refused() -> None:
    with pytest.raises(BadLine) as caught:
        judge(row(), b"theirs", None, holders=[8, 9], named=10)
    assert caught.value.reasons == (
        "refresh_token is held by connection 8, which is another one",
        "refresh_token is held by connection 9, which is another one",
        "external_id names connection 10, which is another one",
    )


KEYRING = Keyring.from_text(f"k1:{new_key()}")


def exported(*, connection_id: int = 7, says: int = 7) -> dict[str, str]:
    realm = KEYRING.seal(Secret("9130"), realm_place("sandbox", connection_id))
    token = KEYRING.seal(Secret(TOKEN), Place("sandbox", connection_id, 2, Field.REFRESH_TOKEN))
    return {
        "id": str(says),
        "grant_number": "2",
        "environment": "sandbox",
        "sealed_realm_id": base64.b64encode(realm).decode(),
        "sealed_refresh_token": base64.b64encode(token).decode(),
    }


def test_a_sealed_line_opens_for_its_place_alone() -> None:
    assert sealed.opened(exported(), KEYRING) == {
        "environment": "sandbox",
        "realm_id": "9130",
        "refresh_token": TOKEN,
    }
    with pytest.raises(BadLine, match="does not open in this place"):
        sealed.opened(exported(says=8), KEYRING)


def test_a_sealed_line_whose_key_is_missing_names_the_key() -> None:
    with pytest.raises(BadLine, match="'k1', which is not in TOKEN_KEYS"):
        sealed.opened(exported(), Keyring.from_text(f"k2:{new_key()}"))


@pytest.mark.parametrize("missing", ["id", "grant_number", "environment", "sealed_realm_id"])
def test_a_sealed_line_must_be_whole(missing: str) -> None:
    values = exported()
    del values[missing]
    with pytest.raises(BadLine, match=f"{missing} is missing from a sealed line"):
        sealed.opened(values, KEYRING)


@pytest.mark.parametrize(("name", "value"), [("id", "x"), ("sealed_realm_id", "***"), ("sealed_refresh_token", "AAAA")])
def test_a_sealed_line_of_rubbish_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadLine):
        sealed.opened(exported() | {name: value}, KEYRING)
