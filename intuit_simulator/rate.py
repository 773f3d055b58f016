"""How many refreshes a second the simulator answers: `python -m intuit_simulator.rate`. Bounded, on loopback."""

import argparse
import asyncio
import base64
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, cast
from urllib.parse import urlsplit

from intuit_simulator.client import CreatedGrant, Simulator
from intuit_simulator.process import start

_MARK: Final = b'"refresh_token":"'
_OK: Final = b"HTTP/1.1 200"
_LIMIT_SECONDS: Final = 120


class Caller(asyncio.Protocol):
    """One kept-alive connection that refreshes one grant again and again. As lean as Python allows."""

    def __init__(self, head: bytes, token: str, calls: int, done: asyncio.Future[None]) -> None:
        self._head = head
        self._token = token.encode()
        self._left = calls
        self._done = done
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._call()

    def data_received(self, data: bytes) -> None:
        """Take the new token from a whole answer and use it in the next request."""
        self._received += data
        if not self._received.endswith(b"}"):
            return
        start = self._received.find(_MARK) + len(_MARK)
        if not self._received.startswith(_OK) or start < len(_MARK):
            self._done.set_exception(RuntimeError(self._received[:200].decode()))
            return
        self._token = self._received[start : self._received.index(b'"', start)]
        self._received = b""
        self._left -= 1
        if self._left:
            self._call()
        else:
            self._done.set_result(None)
            if self._transport:
                self._transport.close()

    def _call(self) -> None:
        body = b"grant_type=refresh_token&refresh_token=" + self._token
        if self._transport:
            self._transport.write(self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


async def measure(simulator: Simulator, grants: Sequence[CreatedGrant], calls_each: int) -> float:
    """Refresh each grant that often, one connection a grant; return the seconds it took."""
    address = urlsplit(simulator.token_url)
    basic = base64.b64encode(f"{simulator.client_id}:{simulator.client_secret}".encode()).decode()
    head = (
        f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Basic {basic}\r\n"
        "Accept: application/json\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        "x-include-refresh-token-hard-expires-in: true\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    waits = []
    for grant in grants:
        done = loop.create_future()
        waits.append(done)
        connect = partial(Caller, head, grant.refresh_token, calls_each, done)
        await loop.create_connection(connect, address.hostname or "", address.port or 0)
    async with asyncio.timeout(_LIMIT_SECONDS):
        await asyncio.gather(*waits)
    return time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m intuit_simulator.rate", description=__doc__)
    parser.add_argument("--calls", type=int, default=30_000, help="refreshes in all (default: 30000)")
    parser.add_argument("--connections", type=int, default=20, help="kept-alive connections (default: 20)")
    parser.add_argument("--journal", action="store_true", help="with the journal on")
    arguments = parser.parse_args(argv)
    calls_each = max(1, arguments.calls // arguments.connections)
    with start(journal=arguments.journal) as simulator:
        grants = simulator.create_grants(arguments.connections)
        seconds = asyncio.run(measure(simulator, grants, calls_each))
    calls = calls_each * len(grants)
    how = f"{len(grants)} connections, journal {'on' if arguments.journal else 'off'}"
    sys.stdout.write(f"{calls} refreshes in {seconds:.2f} s: {calls / seconds:.0f}/s ({how})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
