"""A server of raw bytes: what no well-behaved server of HTTP or Redis would send."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from worker.tokens import TokenSet


@contextlib.contextmanager
def answering(*pieces: bytes, for_ever: bytes = b"") -> Iterator[int]:
    """Give the port of a server that answers whatever it is sent with these bytes, then closes.

    Args:
        pieces: What it answers.
        for_ever: Sent after them again and again, as fast as it is taken.
    """
    endless = (for_ever * 100,) if for_ever else ()
    with _serving(itertools.repeat((pieces, endless))) as port:
        yield port


@contextlib.contextmanager
def answering_in_turn(answers: Iterable[bytes]) -> Iterator[int]:
    """Give the port of a server that answers each connection with the next of these, then closes."""
    with _serving(((answer,), ()) for answer in answers) as port:
        yield port


@contextlib.contextmanager
def _serving(answers: Iterator[tuple[Sequence[bytes], Sequence[bytes]]]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()
        thread = threading.Thread(target=_serve, args=(listening, over, answers))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            thread.join()


def _serve(
    listening: socket.socket, over: threading.Event, answers: Iterator[tuple[Sequence[bytes], Sequence[bytes]]]
) -> None:
    listening.settimeout(0.05)
    while not over.is_set():
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        pieces, endless = next(answers)
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.recv(65536)
            for piece in itertools.chain(pieces, itertools.cycle(endless)):
                connection.sendall(piece)
                if over.is_set():
                    break
            # What is closed with something unread is reset, and the other side may lose what it has not read yet.
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.02)
            while connection.recv(65536):
                pass


def good_answer(tokens: TokenSet, *headers: bytes, content_type: bytes = b"application/json") -> bytes:
    """Return a whole answer with tokens."""
    body = json.dumps(
        {
            "token_type": "bearer",
            "access_token": tokens.access_token.reveal(),
            "refresh_token": tokens.refresh_token.reveal(),
            "expires_in": 3600,
            "x_refresh_token_expires_in": 8640000,
        }
    ).encode()
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: " + content_type, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
