import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

import intuit_simulator
from intuit_simulator import Call, CreatedGrant, Simulator

PATIENCE_SECONDS = 10


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    with intuit_simulator.start() as simulator:
        yield simulator


@pytest.fixture
def simulator(process: Simulator) -> Simulator:
    process.reset()
    return process


@pytest.fixture
def grant(simulator: Simulator) -> CreatedGrant:
    return simulator.create_grant()


def refresh(simulator: Simulator, token: str) -> requests.Response:
    return requests.post(
        simulator.token_url,
        data={"grant_type": "refresh_token", "refresh_token": token},
        auth=(simulator.client_id, simulator.client_secret),
        allow_redirects=False,
        timeout=PATIENCE_SECONDS,
    )


def request_bytes(simulator: Simulator, token: str) -> bytes:
    prepared = requests.Request(
        "POST",
        simulator.token_url,
        data={"grant_type": "refresh_token", "refresh_token": token},
        auth=(simulator.client_id, simulator.client_secret),
    ).prepare()
    head = "".join(f"{name}: {value}\r\n" for name, value in prepared.headers.items())
    return f"POST {prepared.path_url} HTTP/1.1\r\nHost: sim\r\n{head}\r\n{prepared.body!s}".encode()


def connect(simulator: Simulator, data: bytes) -> socket.socket:
    address = urlsplit(simulator.base_url)
    connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=PATIENCE_SECONDS)
    connection.sendall(data)
    return connection


def send_refresh(simulator: Simulator, token: str) -> socket.socket:
    """Send a refresh over a bare socket."""
    return connect(simulator, request_bytes(simulator, token))


def received(connection: socket.socket) -> bytes:
    """Return all bytes until the end of the connection, which may be a reset."""
    parts = []
    with connection:
        try:
            while part := connection.recv(1 << 16):
                parts.append(part)
        except ConnectionResetError:
            parts.append(b"<reset>")
    return b"".join(parts)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


def only_call(simulator: Simulator) -> Call:
    until(lambda: simulator.status()["calls"] == 1)
    (call,) = simulator.journal()
    return call


def is_rotated(simulator: Simulator, grant: CreatedGrant) -> bool:
    return simulator.state(grant.realm_id).refresh_token != grant.refresh_token


def test_latency_delays_the_answer(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.fault("latency", delay=0.2)
    assert refresh(simulator, grant.refresh_token).ok
    call = only_call(simulator)
    assert call.ended - call.started >= 0.2


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("invalid_client", 401, "invalid_client"),
        ("invalid_grant", 400, "invalid_grant"),
        ("throttled", 429, "throttled"),
    ],
)
def test_an_error_spends_nothing_and_passes(
    simulator: Simulator, grant: CreatedGrant, kind: str, status: int, error: str
) -> None:
    fault_id = simulator.fault(kind, count=1)
    answer = refresh(simulator, grant.refresh_token)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert not is_rotated(simulator, grant)
    assert refresh(simulator, grant.refresh_token).ok
    assert [call.faults for call in simulator.journal()] == [f"answer:{fault_id}", None]
    assert [fault["applied"] for fault in simulator.faults()] == [1]


@pytest.mark.parametrize("value", ["120", "Wed, 21 Oct 2099 07:28:00 GMT", "-1", "soon"])
def test_retry_after_is_whatever_was_asked_for(simulator: Simulator, grant: CreatedGrant, value: str) -> None:
    simulator.fault("unavailable", retry_after=value)
    answer = refresh(simulator, grant.refresh_token)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, value)
    assert answer.text.startswith("<html>")


@pytest.mark.parametrize("status", [408, 500, 502, 504, 418])
def test_any_status_can_come_after_the_token_has_rotated(
    simulator: Simulator, grant: CreatedGrant, status: int
) -> None:
    simulator.fault("answer", status=status, rotate=True)
    assert refresh(simulator, grant.refresh_token).status_code == status
    assert is_rotated(simulator, grant)
    call = only_call(simulator)
    assert (call.rotated, call.issued) == (
        True,
        intuit_simulator.fingerprint(simulator.state(grant.realm_id).refresh_token),
    )


@pytest.mark.parametrize(("kind", "start"), [("html", "<html>"), ("empty", "")])
def test_a_200_may_hold_no_tokens_though_the_token_has_rotated(
    simulator: Simulator, grant: CreatedGrant, kind: str, start: str
) -> None:
    simulator.fault(kind)
    answer = refresh(simulator, grant.refresh_token)
    assert answer.status_code == 200
    assert answer.text[:6] == start
    assert is_rotated(simulator, grant)


@pytest.mark.parametrize("value", ["3600", 0, -1, 1e12, None])
def test_fields_of_a_good_answer_can_be_overridden(simulator: Simulator, grant: CreatedGrant, value: object) -> None:
    simulator.fault("override", fields={"expires_in": value}, remove=["x_refresh_token_expires_in"])
    body = refresh(simulator, grant.refresh_token).json()
    assert body["expires_in"] == value
    assert "x_refresh_token_expires_in" not in body


def test_the_refresh_token_can_be_missing(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.fault("no_refresh_token")
    assert "refresh_token" not in refresh(simulator, grant.refresh_token).json()
    assert is_rotated(simulator, grant)


@pytest.mark.parametrize("rotates", [False, True])
def test_a_dropped_request_gets_no_byte(simulator: Simulator, grant: CreatedGrant, rotates: bool) -> None:  # noqa: FBT001
    simulator.fault("drop", rotate=rotates)
    assert received(send_refresh(simulator, grant.refresh_token)) == b""
    assert is_rotated(simulator, grant) is rotates
    call = only_call(simulator)
    assert (call.status, call.written, call.rotated) == (None, False, rotates)


@pytest.mark.parametrize("kind", ["reset", "drop"])
def test_a_reset_is_a_reset(simulator: Simulator, grant: CreatedGrant, kind: str) -> None:
    simulator.fault(kind, reset=True)
    assert received(send_refresh(simulator, grant.refresh_token)) == b"<reset>"
    assert is_rotated(simulator, grant) is (kind == "reset")


@pytest.mark.parametrize(("of", "after_bytes"), [("answer", 0), ("answer", 7), ("body", 0), ("body", 100)])
def test_an_answer_is_cut_at_the_byte_asked_for(
    simulator: Simulator, grant: CreatedGrant, of: str, after_bytes: int
) -> None:
    simulator.fault("cut", of=of, after_bytes=after_bytes)
    answer = received(send_refresh(simulator, grant.refresh_token))
    _, _, body = answer.partition(b"\r\n\r\n")
    assert len(body if of == "body" else answer) == after_bytes
    assert is_rotated(simulator, grant)
    call = only_call(simulator)
    assert (call.status, call.written) == (200, False)


@pytest.mark.parametrize("of", ["body", "headers"])
def test_an_answer_drips_byte_by_byte(simulator: Simulator, grant: CreatedGrant, of: str) -> None:
    simulator.fault("drip", of=of, interval=0.01)
    connection = send_refresh(simulator, grant.refresh_token)
    with connection:
        arrivals: list[float] = []
        while len(arrivals) < 10:
            assert connection.recv(1 << 16)
            arrivals.append(time.monotonic())
    assert arrivals[-1] - arrivals[0] >= 0.05
    assert not only_call(simulator).written, "the client left, and the drip ended"


def test_a_dripped_answer_is_whole_in_the_end(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.set_policy("strict", access_token_length=64)
    simulator.fault("drip", interval=0.0001)
    assert refresh(simulator, grant.refresh_token).ok
    assert only_call(simulator).written


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_its_location(simulator: Simulator, grant: CreatedGrant, status: int) -> None:
    simulator.fault("redirect", status=status, location="http://127.0.0.1:9/trap")
    answer = refresh(simulator, grant.refresh_token)
    assert (answer.status_code, answer.headers["Location"]) == (status, "http://127.0.0.1:9/trap")
    assert not is_rotated(simulator, grant)


def test_a_gzip_answer_is_a_good_answer(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.fault("gzip")
    answer = refresh(simulator, grant.refresh_token)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.json()["refresh_token"] == simulator.state(grant.realm_id).refresh_token


def test_a_gzip_bomb_is_small_on_the_wire(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.fault("gzip", size=5_000_000)
    with requests.post(
        simulator.token_url,
        data={"grant_type": "refresh_token", "refresh_token": grant.refresh_token},
        auth=(simulator.client_id, simulator.client_secret),
        stream=True,
        timeout=PATIENCE_SECONDS,
    ) as answer:
        packed = answer.raw.read(decode_content=False)
    assert len(packed) < 20_000
    assert len(zlib.decompress(packed, 16 + zlib.MAX_WBITS)) == 5_000_000


def test_a_huge_body_is_as_long_as_it_says(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.fault("huge", size=3_000_000)
    answer = refresh(simulator, grant.refresh_token)
    assert len(answer.content) == int(answer.headers["Content-Length"]) == 3_000_000
    assert "access_token" in json.loads(answer.content)
    assert only_call(simulator).written


def test_headers_go_on_until_the_size_is_reached(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.fault("endless_headers", size=1_000_000)
    answer = received(send_refresh(simulator, grant.refresh_token))
    assert len(answer) >= 1_000_000
    assert b"\r\n\r\n" not in answer


def test_a_freeze_answers_nothing_until_it_is_lifted(simulator: Simulator, grant: CreatedGrant) -> None:
    fault_id = simulator.fault("freeze")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(refresh, simulator, grant.refresh_token)
        until(lambda: len(simulator.in_flight()) == 1)
        (call,) = simulator.in_flight()
        assert call["presented"] == intuit_simulator.fingerprint(grant.refresh_token)
        assert not is_rotated(simulator, grant)
        simulator.clear_fault(fault_id)
        assert waiting.result(PATIENCE_SECONDS).ok


def test_a_freeze_may_come_after_the_rotation_and_end_by_itself(simulator: Simulator, grant: CreatedGrant) -> None:
    simulator.fault("freeze", rotate=True, seconds=0.3)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(refresh, simulator, grant.refresh_token)
        until(lambda: is_rotated(simulator, grant))
        assert len(simulator.in_flight()) == 1
        assert waiting.result(PATIENCE_SECONDS).ok


@pytest.mark.parametrize("if_gone", ["drop", "process"])
def test_a_frozen_request_whose_client_left_is_dropped_or_processed_as_asked(
    simulator: Simulator, grant: CreatedGrant, if_gone: str
) -> None:
    simulator.fault("freeze", if_gone=if_gone)
    connection = send_refresh(simulator, grant.refresh_token)
    until(lambda: len(simulator.in_flight()) == 1)
    connection.close()
    if if_gone == "drop":
        until(lambda: not simulator.in_flight())
    simulator.clear_faults()
    call = only_call(simulator)
    assert not call.written
    assert is_rotated(simulator, grant) is (if_gone == "process")


@pytest.mark.parametrize(("policy", "survives"), [("strict", True), ("reuse-revokes", False)])
def test_two_calls_at_once_with_one_token_are_seen_and_the_second_is_refused(
    simulator: Simulator,
    grant: CreatedGrant,
    policy: str,
    survives: bool,  # noqa: FBT001
) -> None:
    simulator.set_policy(policy)
    simulator.fault("freeze", rotate=True, count=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(refresh, simulator, grant.refresh_token)
        until(lambda: is_rotated(simulator, grant))
        assert refresh(simulator, grant.refresh_token).json() == {"error": "invalid_grant"}
        simulator.clear_faults()
        assert first.result(PATIENCE_SECONDS).ok
    check = simulator.check()
    assert (check.overlapping, check.revoked_by_reuse) == (1, 0 if survives else 1)
    assert simulator.state(grant.realm_id).alive is survives


def test_a_call_begins_with_its_first_byte_even_if_its_token_comes_later(
    simulator: Simulator, grant: CreatedGrant
) -> None:
    data = request_bytes(simulator, grant.refresh_token)
    with connect(simulator, data[:20]) as early:
        simulator.status()  # One thread serves all: what came before this call has been read.
        assert refresh(simulator, grant.refresh_token).ok
        early.sendall(data[20:])
        assert early.recv(1 << 16)
    assert [call.overlapped for call in simulator.journal()] == [False, True]


def test_a_connection_is_kept_alive_through_good_and_bad_answers(simulator: Simulator) -> None:
    grants = simulator.create_grants(3)
    with connect(simulator, b"") as connection:
        for grant in grants:
            for status in (b"HTTP/1.1 200", b"HTTP/1.1 400"):
                connection.sendall(request_bytes(simulator, grant.refresh_token))
                assert connection.recv(1 << 16).startswith(status)
    assert simulator.check().overlapping == 0


def test_delay_answer_and_delivery_may_all_go_wrong_in_one_call(simulator: Simulator, grant: CreatedGrant) -> None:
    ids = [
        simulator.fault("latency", delay=0.01),
        simulator.fault("invalid_client", realm_ids=grant.realm_id),
        simulator.fault("cut", after_bytes=3),
    ]
    assert received(send_refresh(simulator, grant.refresh_token)).endswith(b'\r\n\r\n{"e')
    assert only_call(simulator).faults == "latency:{},answer:{},cut:{}".format(*ids)
