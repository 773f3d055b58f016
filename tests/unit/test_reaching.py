"""What is said of a Redis that cannot be used: real lines, and no word that may quote what was sent."""

from __future__ import annotations

import socketserver
import threading

import redis

from worker import reaching


def test_a_host_that_has_no_name_is_told_from_one_that_does_not_answer() -> None:
    nameless = reaching.broker("redis://:password@no-such-host.invalid:6379/0")
    silent = reaching.broker("redis://:password@127.0.0.1:1/0")
    assert nameless is not None
    assert silent is not None
    assert nameless.sentence == "Redis at REDIS_URL cannot be reached: is its host name right?"
    assert "is it running" in silent.sentence
    assert nameless.may_pass
    assert silent.may_pass


class _Web(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        self.rfile.readline()


def test_what_answers_and_is_no_redis_is_said_to_be_none() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), _Web) as web:
        threading.Thread(target=web.serve_forever).start()
        try:
            trouble = reaching.broker(f"redis://127.0.0.1:{web.server_address[1]}/0")
        finally:
            web.shutdown()
    assert trouble is not None
    assert trouble.sentence == "What answers at REDIS_URL is no Redis: are host and port right?"


def test_redis_own_reason_is_named_by_its_code_alone() -> None:
    refusal = redis.ResponseError("MISCONF errors writing to disk, and what was sent")
    assert reaching.redis_trouble(refusal).sentence == "Redis at REDIS_URL refuses to work (MISCONF)."
    refusal = redis.ResponseError("unknown command")
    assert reaching.redis_trouble(refusal).sentence == "Redis at REDIS_URL refuses to work (ResponseError)."
