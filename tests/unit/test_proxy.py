"""The fault proxy of the tests, before a server that sends back what it gets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT
from tests.support.proxy import FaultProxy, Way
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK_S = 0.15


class Echo:
    """A server that sends back what it gets and remembers it, and how each connection ended."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://someone:secret@127.0.0.1:{self.listening.getsockname()[1]}/x"
        self.got = bytearray()
        self.ends: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listening.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    self.got += data
                    connection.sendall(data)
                self.ends.append("closed")
            except OSError:
                self.ends.append("reset")


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    with contextlib.suppress(OSError):
        server.listening.shutdown(socket.SHUT_RDWR)
    server.listening.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.url) as running:
        yield running


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connected:
        connected.sendall(b"hello")
        assert connected.recv(5) == b"hello"
        yield connected


def hears_nothing(client: socket.socket) -> bool:
    client.settimeout(QUICK_S)
    try:
        client.recv(1)
    except TimeoutError:
        client.settimeout(5)
        return True
    return False


def read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def test_its_url_is_the_servers_with_another_port(proxy: FaultProxy) -> None:
    assert proxy.url == f"tcp://someone:secret@127.0.0.1:{proxy.port}/x"


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_delay_is_kept_and_lifted(proxy: FaultProxy, client: socket.socket, way: str) -> None:
    proxy.set(**{way: Way(delay_s=0.2)})
    began = time.monotonic()
    client.sendall(b"a")
    assert client.recv(1) == b"a"
    assert time.monotonic() - began >= 0.2
    proxy.heal()
    began = time.monotonic()
    client.sendall(b"b")
    assert client.recv(1) == b"b"
    assert time.monotonic() - began < 0.2


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_stall_keeps_the_bytes(proxy: FaultProxy, client: socket.socket, echo: Echo, way: str) -> None:
    proxy.set(**{way: Way(stalled=True)})
    client.sendall(b"kept")
    assert hears_nothing(client)
    assert (b"kept" in echo.got) is (way == "down")
    proxy.heal()
    assert read(client, 4) == b"kept"


def test_what_a_client_that_is_gone_had_sent_is_delivered_late(
    proxy: FaultProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.set(up=Way(stalled=True))
    client.sendall(b"late")
    assert hears_nothing(client)
    client.close()
    proxy.heal()
    wait_until(lambda: b"late" in echo.got)


@pytest.mark.parametrize("way", ["up", "down"])
def test_what_is_dropped_never_arrives(proxy: FaultProxy, client: socket.socket, echo: Echo, way: str) -> None:
    proxy.set(**{way: Way(dropped=True)})
    client.sendall(b"x")
    assert hears_nothing(client)
    proxy.heal()
    client.sendall(b"y")
    assert client.recv(2) == b"y"
    assert bytes(echo.got) == (b"helloy" if way == "up" else b"helloxy")


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_is_cut_after_so_many_bytes_either_way(
    proxy: FaultProxy, client: socket.socket, echo: Echo, way: str, how: str
) -> None:
    proxy.set(**{way: Way(cut_after=3, how=how)})  # type: ignore[arg-type]  # one of them
    client.sendall(b"abcdef")
    if how == "close":
        assert read(client, 6) == (b"" if way == "up" else b"abc") or way == "up"
        assert client.recv(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            read(client, 7)
    wait_until(lambda: echo.ends)
    assert bytes(echo.got) == (b"helloabc" if way == "up" else b"helloabcdef")
    assert proxy.counts().cut == 1


def test_half_open_the_server_sees_an_end_and_the_client_none(
    proxy: FaultProxy, client: socket.socket, echo: Echo
) -> None:
    assert proxy.cut("silent") == 1
    wait_until(lambda: echo.ends == ["reset"])
    client.sendall(b"nobody hears this")
    assert hears_nothing(client)
    assert bytes(echo.got) == b"hello"


def test_cut_ends_all_that_is_open_and_new_ones_work(proxy: FaultProxy, client: socket.socket) -> None:
    assert proxy.cut("reset") == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        again.sendall(b"again")
        assert read(again, 5) == b"again"


def test_new_connections_are_refused_and_taken_again(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        asked(proxy)
    client.sendall(b"still")
    assert read(client, 5) == b"still"
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as other:
        other.sendall(b"x")
        assert other.recv(1) == b"x"


def asked(proxy: FaultProxy) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as other:
        return other.recv(1)


def test_a_throttle_holds_the_rate(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.set(down=Way(bytes_per_s=10_000))
    began = time.monotonic()
    client.sendall(bytes(3000))
    assert len(read(client, 3000)) == 3000
    assert 0.25 < time.monotonic() - began < 2


def test_the_answer_to_a_text_is_lost_after_the_server_had_it(
    proxy: FaultProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.lose_the_answer_to("COMMIT")
    client.sendall(b"COMMIT")
    assert client.recv(6) == b""
    assert (bytes(echo.got), proxy.lost) == (b"helloCOMMIT", 1)


def test_another_process_drives_it_by_lines_of_json(echo: Echo) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.proxy", echo.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]

        def order(**order: object) -> dict[str, object]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            answer: dict[str, object] = json.loads(process.stdout.readline())
            return answer

        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"a")
            assert client.recv(1) == b"a"
            assert order(do="set", up={"stalled": True}) == {}
            client.sendall(b"b")
            assert hears_nothing(client)
            assert order(do="heal") == {}
            assert client.recv(1) == b"b"
            assert order(do="counts")["connections"] == 1
            assert order(do="dance") == {"problem": "unknown order"}
            assert "problem" in order(do="set", up={"nonsense": 1})
            assert order(do="cut", how="reset") == {"cut": 1}
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        process.stdin.close()
        assert process.wait(10) == 0
