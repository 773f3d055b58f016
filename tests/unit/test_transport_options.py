"""What the transport asks of its sockets, seen on the one that it keeps."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from worker import clock
from worker.intuit.transport import IDLE_LIMIT_S, Call, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Listener:
    """A server that answers every request alike and counts its connections."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while client.recv(1 << 16):
                client.sendall(_ANSWER)

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    started = Listener()
    yield started
    started.close()


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport()
    yield made
    made.close()


def post(transport: Transport, url: str, *, within_s: float = 10.0) -> None:
    call = Call(clock.boottime() + within_s, lambda: None)
    assert transport.post(url, headers={}, body=b"x=1", call=call).status == 200


def kept(transport: Transport, url: str) -> Any:
    """Return the connection that waits for the next call."""
    pool, _ = transport._targets[url]  # noqa: SLF001  # nothing else shows the socket
    assert pool.pool is not None
    return pool.pool.queue[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
def test_what_is_not_acknowledged_by_the_deadline_is_dropped_by_the_kernel(
    listener: Listener, transport: Transport
) -> None:
    post(transport, listener.url, within_s=7.0)
    timeout_ms = kept(transport, listener.url).sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert 6000 < timeout_ms <= 7000


def test_a_close_resets(listener: Listener, transport: Transport) -> None:
    post(transport, listener.url)
    assert kept(transport, listener.url).sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"


def test_row_36_a_socket_left_idle_is_not_used_again(listener: Listener, transport: Transport) -> None:
    post(transport, listener.url)
    post(transport, listener.url)
    assert listener.connections == 1
    kept(transport, listener.url)._idle_since -= IDLE_LIMIT_S  # noqa: SLF001  # instead of waiting
    post(transport, listener.url)
    assert listener.connections == 2
