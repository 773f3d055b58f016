from __future__ import annotations

import base64
import socket
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from qbo_refresh.secret import Secret
from qbo_refresh.status import Outcome
from tests.support.attempts import FORCED
from tests.support.raw import answering_in_turn
from worker import clock
from worker.attempt import Trigger
from worker.errors import GrantRejected, IntuitError, OutcomeUnknown
from worker.intuit import Gate, IntuitEndpoint
from worker.refresh import Refresher, Result, refresh
from worker.settings import Endpoint
from worker.store import dispatch
from worker.tokens import TokenSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

LATER = timedelta(minutes=5)


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


def assert_in_doubt_until_the_lease_is_over(fleet: Fleet, by: Refresher, connected: Connected) -> None:
    result = sweep(by, connected)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unknown")
    row = fleet.row(connected.id)
    assert (row.status, row.in_doubt, row.is_leased) == ("active", True, True)
    calls = fleet.simulator.check().calls
    for freshness in (FORCED, FORCED):
        assert refresh(by, connected.id, trigger=Trigger.ADHOC, freshness=freshness).outcome is Outcome.SKIPPED
    assert fleet.simulator.check().calls == calls


def assert_recovers(fleet: Fleet, by: Refresher, connected: Connected) -> None:
    fleet.let_pass(LATER)
    assert sweep(by, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)
    assert (fleet.row(connected.id).status, fleet.events(connected.id)) == ("active", [])


@pytest.mark.parametrize("fault", [{"kind": "drop"}, {"kind": "drop", "reset": True}])
def test_row_8_a_lost_request_is_sent_again_after_the_lease(
    fleet: Fleet, refresher: Refresher, fault: dict[str, Any]
) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault(**fault, count=1)
    assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
    assert_recovers(fleet, refresher, connected)


@pytest.mark.parametrize("fault", [{"kind": "drop", "rotate": True}, {"kind": "reset"}])
def test_row_8_a_lost_answer_is_no_dead_grant(fleet: Fleet, refresher: Refresher, fault: dict[str, Any]) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault(**fault, count=1)
    assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
    fleet.let_pass(LATER)
    result = sweep(refresher, connected)
    assert (result.outcome, result.reason) == (Outcome.SUSPECT, "answer_lost"), "strict: the new token is lost"
    assert fleet.events(connected.id) == []


@pytest.mark.parametrize("reset", [False, True])
def test_row_8_an_answer_cut_at_any_byte_is_in_doubt(fleet: Fleet, refresher: Refresher, *, reset: bool) -> None:
    fleet.simulator.set_policy("grace")
    cuts = [1, 15, 17, 100, 250, 400, 600, 900, 1100, 1200]
    for cut, connected in zip(cuts, fleet.connect(len(cuts)), strict=True):
        fleet.simulator.fault("cut", of="answer", after_bytes=cut, reset=reset, realm_ids=connected.realm_id, count=1)
        assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
        assert_recovers(fleet, refresher, connected)


def as_the_simulator_says_it(fleet: Fleet, refresh_token: str) -> tuple[bytes, bytes]:
    """Return head and body of its answer, byte for byte."""
    secret = base64.b64encode(f"{fleet.app.client_id}:{fleet.simulator.client_secret}".encode())
    form = f"grant_type=refresh_token&refresh_token={refresh_token}".encode()
    url = urlsplit(fleet.simulator.token_url)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Basic %s\r\n" % (
        url.path.encode(),
        secret,
    )
    head += b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(form)
    with socket.create_connection((url.hostname or "", url.port or 0)) as connection, connection.makefile("rb") as file:
        connection.sendall(head + form)
        answered, _, body = file.read().partition(b"\r\n\r\n")
    return answered + b"\r\n\r\n", body


def in_chunks(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    lines[1:1] = [b"Transfer-Encoding: chunked"]
    pieces = [body[start : start + 300] for start in range(0, len(body), 300)]
    return b"\r\n".join(lines), b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("framing", ["with its length", "in chunks"])
def test_row_8_an_answer_cut_after_any_of_its_bytes_is_in_doubt_and_a_token_that_came_whole_is_kept(
    fleet: Fleet, framing: str
) -> None:
    # Fails without salvaging, and if what is missing of a body is made good: seen.
    (connected,) = fleet.connect()
    head, body = as_the_simulator_says_it(fleet, connected.refresh_token)
    live = Secret(fleet.state(connected).refresh_token)
    refused = as_the_simulator_says_it(fleet, connected.refresh_token)
    assert refused[0].startswith(b"HTTP/1.1 400")
    if framing == "in chunks":
        (head, body), refused = in_chunks(head, body), in_chunks(*refused)
    whole, refusal = head + body, b"".join(refused)
    arrived = whole.index(live.reveal().encode()) + len(live.reveal()) + 1  # with its closing quote
    # The head is the same for both; and when the last chunk's 0 has come, all has.
    begin, spare = (len(head), len(b"\r\n\r\n")) if framing == "in chunks" else (0, 0)

    def asked(intuit: IntuitEndpoint) -> TokenSet | IntuitError:
        gate = Gate(clock.boottime(), LATER, timedelta(seconds=20), timedelta(0))
        try:
            return intuit.refresh(live, client_id="x", client_secret=Secret("x"), gate=gate)
        except IntuitError as error:
            return error

    cuts = [(answer, cut) for answer in (whole, refusal) for cut in range(begin, len(answer) - spare)]
    with answering_in_turn(answer[:cut] for answer, cut in [*cuts, (whole, None), (refusal, None)]) as port:
        intuit = IntuitEndpoint(Endpoint(f"http://127.0.0.1:{port}/", ""))
        for answer, cut in cuts:
            found = asked(intuit)
            assert isinstance(found, OutcomeUnknown), (cut, found)
            assert found.salvaged == (live if answer is whole and cut >= arrived else None), cut
        assert isinstance(asked(intuit), TokenSet)
        assert isinstance(asked(intuit), GrantRejected)


def test_row_8_a_token_that_came_whole_before_the_cut_is_the_live_one(fleet: Fleet, refresher: Refresher) -> None:
    # Fails without salvaging: seen, the strict provider has forgotten the old token.
    (connected,) = fleet.connect()
    fleet.simulator.fault("override", remove=["access_token"], count=1)
    assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
    (candidate,) = fleet.candidates(connected.id)
    assert (candidate.source, candidate.base_version) == ("salvage", 1)
    assert_recovers(fleet, refresher, connected)
    assert fleet.state(connected).refusals == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "html"},
        {"kind": "empty"},
        {"kind": "no_refresh_token"},
        {"kind": "answer", "status": 200, "body": "{}", "rotate": True},
        {"kind": "answer", "status": 200, "body": "[]", "rotate": True},
        {"kind": "answer", "status": 204, "body": "", "rotate": True},
        {"kind": "override", "fields": {"refresh_token": None}},
        {"kind": "override", "fields": {"refresh_token": ""}},
        {"kind": "override", "fields": {"refresh_token": "<html>no token at all</html>"}},
        {"kind": "override", "fields": {"access_token": 7}},
        {"kind": "cut", "after_bytes": 20},
    ],
)
def test_row_11_garbage_is_not_stored_over_good_tokens(
    fleet: Fleet, refresher: Refresher, fault: dict[str, Any]
) -> None:
    fleet.simulator.set_policy("grace")
    (connected,) = fleet.connect()
    before = fleet.row(connected.id)
    fleet.simulator.fault(**fault, count=1)
    assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
    after = fleet.row(connected.id)
    assert (after.refresh_token, after.token_version) == (before.refresh_token, before.token_version)
    assert_recovers(fleet, refresher, connected)


def test_row_11_the_same_token_again_is_a_success(fleet: Fleet, refresher: Refresher) -> None:
    fleet.simulator.set_policy("daily")
    (connected,) = fleet.connect()
    result = sweep(refresher, connected)
    assert (result.outcome, result.rotated) == (Outcome.REFRESHED, False)
    assert fleet.row(connected.id).token_version == 2
    assert fleet.holds_the_live_token(connected)


ROLLING, HARD = "x_refresh_token_expires_in", "x_refresh_token_hard_expires_in"
LIFETIMES = {"expires_in": timedelta(hours=1), ROLLING: timedelta(days=100), HARD: timedelta(days=1825)}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"expires_in": "3600", ROLLING: "8640000", HARD: "157680000"}, {}),
        ({"expires_in": 0}, {"expires_in": timedelta(minutes=1)}),
        ({"expires_in": -1}, {"expires_in": timedelta(minutes=1)}),
        ({"expires_in": 1e12}, {"expires_in": timedelta(days=1)}),
        ({"expires_in": "1e12"}, {"expires_in": timedelta(days=1)}),
        ({"expires_in": None}, {"expires_in": timedelta(minutes=1)}),
        ({ROLLING: 1e12}, {ROLLING: timedelta(days=1825)}),
        ({ROLLING: 0}, {ROLLING: None}),
        ({HARD: -1}, {HARD: None}),
        ({HARD: 0}, {HARD: None}),
    ],
)
def test_row_11_tokens_with_absurd_lifetimes_are_saved_with_sane_ones_and_it_is_reported(
    fleet: Fleet, refresher: Refresher, fields: dict[str, Any], kept: dict[str, timedelta | None]
) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault("override", fields={ROLLING: 8640000, HARD: 157680000} | fields, count=1)
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    assert fleet.outcomes(connected.id) == [("refreshed", "lifetimes_clamped" if kept else None)]
    assert fleet.holds_the_live_token(connected)
    row = fleet.row(connected.id)
    ends = (row.access_expires_at, row.refresh_expires_at, row.hard_expires_at)
    assert [end and end - row.token_obtained_at for end in ends] == list((LIFETIMES | kept).values())


@pytest.mark.parametrize(
    "fault", [{"kind": "huge", "size": 32 << 20}, {"kind": "gzip", "size": 32 << 20}, {"kind": "endless_headers"}]
)
def test_row_12_a_huge_answer_takes_no_memory_and_costs_no_token(
    fleet: Fleet, refresher: Refresher, fault: dict[str, Any]
) -> None:
    fleet.simulator.set_policy("grace")
    warm, connected = fleet.connect(2)
    assert sweep(refresher, warm).outcome is Outcome.REFRESHED
    fleet.simulator.fault(**fault, count=1)
    tracemalloc.start()
    try:
        assert sweep(refresher, connected).reason == "unknown"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20, "a body of 64 KiB, some copies of it, and no 32 MiB"
    assert_recovers(fleet, refresher, connected)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_row_13_a_redirect_is_not_followed(fleet: Fleet, refresher: Refresher, status: int) -> None:
    (connected,) = fleet.connect()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0)
        location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        fleet.simulator.fault("redirect", status=status, location=location, count=1)
        assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert_recovers(fleet, refresher, connected)


@pytest.mark.parametrize("status", [307, 308])
def test_row_13_a_redirect_to_the_endpoint_itself_sends_the_token_no_second_time(
    fleet: Fleet, refresher: Refresher, status: int
) -> None:
    # Fails with `redirect=True` and retries: seen, the token is presented again within the same attempt.
    (connected,) = fleet.connect()
    fleet.simulator.fault("redirect", status=status, location=urlsplit(fleet.simulator.token_url).path, count=1)
    assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
    assert fleet.simulator.check().refreshes == 1


IN_2099 = format_datetime(datetime(2099, 1, 1, tzinfo=UTC), usegmt=True)
NO_DATE = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"


def in_two_minutes() -> str:
    return format_datetime(clock.now() + timedelta(minutes=2), usegmt=True)


def assert_the_app_pauses(fleet: Fleet, workers: list[Runtime], connected: Connected, pause_s: int) -> None:
    """Nobody asks for it, no worker, no sweep and no forced caller, until the pause is over."""
    calls = fleet.simulator.check().calls
    for left_s in (pause_s, 5):
        fleet.let_pass(timedelta(seconds=0 if left_s == pause_s else pause_s - 5))
        for worker in workers:
            assert sweep(worker.refresher, connected).outcome is Outcome.SKIPPED
            forced = refresh(worker.refresher, connected.id, trigger=Trigger.ADHOC, freshness=FORCED)
            assert forced.reason == "throttled"
        assert dispatch.gates(fleet.db, workers[0].keys) == dispatch.Gates(throttled=(connected.app_id,))
    assert fleet.simulator.check().calls == calls
    fleet.let_pass(timedelta(seconds=10))
    assert sweep(workers[1].refresher, connected).outcome is Outcome.REFRESHED


@pytest.mark.parametrize(
    ("retry_after", "pause_s"),
    [
        (None, 60),
        ("30", 30),
        (in_two_minutes, 120),
        (IN_2099, 900),
        ("31536000", 900),
        ("soon", 60),
        (NO_DATE, 60),
    ],
)
def test_row_14_a_429_pauses_the_whole_app_within_bounds(
    fleet: Fleet,
    start_worker: Callable[..., Runtime],
    retry_after: str | Callable[[], str] | None,
    pause_s: int,
) -> None:
    first, second = fleet.connect(2)
    workers = [start_worker(), start_worker()]
    fleet.simulator.fault("throttled", retry_after=retry_after() if callable(retry_after) else retry_after, count=1)
    assert sweep(workers[0].refresher, first).reason == "throttled"
    assert (fleet.row(first.id).in_doubt, fleet.row(first.id).lease_id) == (False, None)
    assert_the_app_pauses(fleet, workers, second, pause_s)


@pytest.mark.parametrize(
    ("retry_after", "pause_s"), [("600", 600), (in_two_minutes, 120), (IN_2099, 900), ("31536000", 900)]
)
def test_row_14_a_503_with_retry_after_is_in_doubt_and_pauses_the_app(
    fleet: Fleet, start_worker: Callable[..., Runtime], retry_after: str | Callable[[], str], pause_s: int
) -> None:
    first, second = fleet.connect(2)
    workers = [start_worker(), start_worker()]
    text = retry_after() if callable(retry_after) else retry_after
    fleet.simulator.fault("unavailable", retry_after=text, count=1)
    assert_in_doubt_until_the_lease_is_over(fleet, workers[0].refresher, first)
    assert_the_app_pauses(fleet, workers, second, pause_s)


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
@pytest.mark.parametrize("error", [None, "invalid_grant"])
def test_row_15_an_error_after_intuit_had_rotated_is_in_doubt(
    fleet: Fleet, refresher: Refresher, status: int, error: str | None
) -> None:
    fleet.simulator.set_policy("grace")
    (connected,) = fleet.connect()
    fleet.simulator.fault("answer", status=status, error=error, rotate=True, count=1)
    assert_in_doubt_until_the_lease_is_over(fleet, refresher, connected)
    assert_recovers(fleet, refresher, connected)
