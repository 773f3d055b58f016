"""A server that means harm, or is broken beyond what Intuit has shown: what it can cost is time and one answer."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from qbo_refresh.status import Outcome
from tests.support.attempts import ACCESS, NEW_TOKEN
from tests.support.raw import answering, good_answer
from worker.attempt import Trigger
from worker.refresh import Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

SHORT = {"LEASE_SECONDS": "3"}  # a deadline of 1 s

GOOD = good_answer(ACCESS)
JSON = GOOD.partition(b"\r\n\r\n")[2]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def ask(fleet: Fleet, start_worker: Callable[..., Runtime]) -> Iterator[Callable[..., tuple[Result, Connected]]]:
    """Give a function that refreshes a new connection at a server of raw bytes."""
    with ExitStack() as servers:

        def ask(*pieces: bytes, for_ever: bytes = b"") -> tuple[Result, Connected]:
            port = servers.enter_context(answering(*pieces, for_ever=for_ever))
            worker = start_worker(INTUIT_TOKEN_URL=f"http://127.0.0.1:{port}/token", **SHORT)
            (connected,) = fleet.connect()
            began = time.monotonic()
            result = refresh(worker.refresher, connected.id, trigger=Trigger.SWEEP)
            assert time.monotonic() - began < 8, "a deadline of 1 s, on a busy machine"
            return result, connected

        yield ask


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
    ],
)
def test_an_interim_answer_is_not_the_answer(
    fleet: Fleet, ask: Callable[..., tuple[Result, Connected]], interim: bytes
) -> None:
    # Fails without `_Response.begin`: seen with 102 and 103, the attempt is in doubt and the new token lost.
    result, connected = ask(interim + GOOD)
    assert result.outcome is Outcome.REFRESHED
    assert fleet.token(connected.id) == NEW_TOKEN


@pytest.mark.parametrize(
    "for_ever",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"X-Filler: " + b"x" * 1000 + b"\r\n",
        b"x",
    ],
    ids=["100", "103", "header", "status line"],
)
def test_an_answer_without_an_end_is_in_doubt_in_time_and_takes_no_memory(
    fleet: Fleet, ask: Callable[..., tuple[Result, Connected]], for_ever: bytes
) -> None:
    head = b"" if for_ever.startswith(b"H") or for_ever == b"x" else HEAD
    tracemalloc.start()
    try:
        result, connected = ask(head, for_ever=for_ever)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unknown")
    assert peak < 8 << 20
    row = fleet.row(connected.id)
    assert (row.in_doubt, row.is_leased, row.status) == (True, True, "active")
    assert fleet.token(connected.id) == connected.refresh_token


def test_ten_megabytes_are_not_read_and_what_came_whole_is_kept(
    fleet: Fleet, ask: Callable[..., tuple[Result, Connected]]
) -> None:
    body = JSON[:-1] + b"," + b" " * (10 << 20) + b'"x": 1}'
    result, connected = ask(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unknown")
    (candidate,) = fleet.candidates(connected.id)
    assert (candidate.source, candidate.fingerprint) == ("salvage", fleet.fingerprint(NEW_TOKEN))


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"GZIP"])
def test_a_bomb_is_unpacked_no_further_than_an_answer_may_be_long(
    fleet: Fleet, ask: Callable[..., tuple[Result, Connected]], encoding: bytes
) -> None:
    packed = gzip.compress(JSON[:-1] + b"," + b" " * (64 << 20) + b'"x": 1}')
    tracemalloc.start()
    try:
        result, connected = ask(HEAD + b"Content-Encoding: " + encoding + b"\r\n\r\n" + packed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.reason == "unknown"
    assert peak < 4 << 20
    assert fleet.token(connected.id) == connected.refresh_token


@pytest.mark.parametrize("content_type", [b"text/html", b"application/octet-stream; charset=utf-16", b"", b"\xff\xfe"])
def test_tokens_are_tokens_whatever_the_content_type_says(
    fleet: Fleet, ask: Callable[..., tuple[Result, Connected]], content_type: bytes
) -> None:
    result, connected = ask(good_answer(ACCESS, content_type=content_type))
    assert result.outcome is Outcome.REFRESHED
    assert fleet.token(connected.id) == NEW_TOKEN


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3000\r\n\r\n{}",
        HEAD + b"Content-Encoding: gzip\r\n\r\nnot gzip",
        HEAD + b"Set-Cookie: a=b\r\n\r\n" + b"[" * 60_000,
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + b'{"error":' * 5000,
    ],
)
def test_what_is_no_answer_is_in_doubt_and_costs_nothing(
    fleet: Fleet, ask: Callable[..., tuple[Result, Connected]], answer: bytes
) -> None:
    result, connected = ask(answer)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unknown")
    assert fleet.token(connected.id) == connected.refresh_token
    assert (fleet.row(connected.id).status, fleet.events(connected.id)) == ("active", [])


def test_what_an_answer_says_of_itself_reaches_no_table_as_it_is(
    fleet: Fleet, ask: Callable[..., tuple[Result, Connected]]
) -> None:
    code = "x'; DROP TABLE qbo.connections; --\x1b[2J" + NEW_TOKEN
    body = b'{"error": "%s", "error_description": "%s"}' % (code.replace("\x1b", "\\u001b").encode(), b"RT1-quoted")
    result, connected = ask(
        b"HTTP/1.1 400 Bad Request\r\nintuit_tid: 1-\x1b[31m'; DROP--" + b"t" * 300 + b"\r\n\r\n" + body
    )
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unheard_of")
    (attempt,) = fleet.attempts(connected.id)
    assert attempt.reason == "unheard_of"
    assert attempt.intuit_tid.startswith("1-31mDROP--t")
    assert len(attempt.intuit_tid) == 100
