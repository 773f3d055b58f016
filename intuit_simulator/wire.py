"""Bytes on the connection: noticing the first of a request, and delivering answers well or badly."""

import asyncio
import contextlib
import gzip
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from intuit_simulator.faults import Fault, Kind

_CHUNK: Final = 1 << 16
_DEFAULT_SIZES: Final = {Kind.HUGE: 64 << 20, Kind.ENDLESS_HEADERS: 16 << 20}
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Wire(web.RequestHandler):
    """A connection that remembers when the current request began, and tells when the client left."""

    __slots__ = ("_first_byte_at", "_gone")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(manager, loop=loop, access_log=None)  # type: ignore[arg-type]  # None is its way to say no log
        self._first_byte_at = 0.0
        self._gone: asyncio.Event | None = None

    def data_received(self, data: bytes) -> None:
        """Note the time of a request's first byte."""
        if not self._first_byte_at:
            self._first_byte_at = time.monotonic()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell those who wait for it that the client has left."""
        if self._gone:
            self._gone.set()
        super().connection_lost(exc)

    def first_byte_at(self) -> float:
        """Return when the current request began, by the monotonic clock."""
        return self._first_byte_at or time.monotonic()

    def forget_request(self) -> None:
        """Expect the next byte to be the first of another request."""
        self._first_byte_at = 0.0

    def is_gone(self) -> bool:
        """Say whether the client has left."""
        return self.transport is None or self.transport.is_closing()

    async def wait(
        self, seconds: float | None, event: asyncio.Event | None = None, *, minds_client: bool = True
    ) -> bool:
        """Wait until the time is over or the event happens; return whether the client is still there.

        Args:
            seconds: how long at most; None for no limit.
            event: what ends the wait early.
            minds_client: the wait ends, too, when the client leaves.
        """
        if minds_client and self.is_gone():
            return False
        self._gone = self._gone or asyncio.Event()
        events = [event] if event else []
        if minds_client:
            events.append(self._gone)
        waits = [asyncio.ensure_future(each.wait()) for each in events]
        try:
            if waits:
                await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(seconds or 0)
        finally:
            for each in waits:
                each.cancel()
        return not self.is_gone()

    def write(self, data: bytes) -> bool:
        """Hand bytes to the connection; False if the client has left."""
        if self.is_gone():
            return False
        assert self.transport is not None  # noqa: S101  # is_gone has just said so
        self.transport.write(data)
        return True

    def end(self, *, reset: bool) -> None:
        """Close the connection, with RST if asked for."""
        transport = self.transport
        if transport is None:
            return
        if reset:
            sock = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            transport.abort()
        else:
            transport.close()


async def deliver(request: web.BaseRequest, wire: Wire, head: bytes, body: bytes, fault: Fault) -> bool:
    """Send an answer the way the fault says; return whether the client was given all of it."""
    match fault.kind:
        case Kind.CUT:
            sent = _cut(wire, head, body, fault)
        case Kind.DRIP:
            sent = await _drip(wire, head, body, fault)
        case Kind.GZIP:
            packed = gzip.compress(body) if fault.size is None else await asyncio.to_thread(gzip_bomb, body, fault.size)
            sent = wire.write(with_length(head, len(packed), b"Content-Encoding: gzip\r\n") + packed)
        case Kind.HUGE:
            sent = await _huge(request, wire, head, body, size_of(fault))
        case Kind.ENDLESS_HEADERS:
            sent = await _endless_headers(request, wire, head, size_of(fault))
        case _:
            sent = wire.write(head + body)
    return sent


def size_of(fault: Fault) -> int:
    """Return how many bytes the fault is about."""
    return _DEFAULT_SIZES[fault.kind] if fault.size is None else fault.size


def with_length(head: bytes, length: int, more: bytes = b"") -> bytes:
    """Return an answer's head with another Content-Length and more headers."""
    lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join(lines) + b"\r\n" + b"Content-Length: %d\r\n" % length + more + b"\r\n"


def gzip_bomb(body: bytes, size: int) -> bytes:
    """Return a gzip body that unpacks to the JSON object `body` padded with spaces to `size` bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    padding = max(0, size - len(body))
    parts = [packer.compress(body[:-1])]
    block = b" " * (1 << 20)
    parts += [packer.compress(block) for _ in range(padding // len(block))]
    parts += [packer.compress(b" " * (padding % len(block)) + body[-1:]), packer.flush()]
    return b"".join(parts)


def _cut(wire: Wire, head: bytes, body: bytes, fault: Fault) -> bool:
    whole = head + body
    allowed = fault.after_bytes + (len(head) if fault.of == "body" else 0)
    sent = wire.write(whole[:allowed]) and allowed >= len(whole)
    wire.end(reset=fault.reset)
    return sent


async def _drip(wire: Wire, head: bytes, body: bytes, fault: Fault) -> bool:
    whole = head + body
    start = 0 if fault.of == "headers" else len(head)
    sent = wire.write(whole[:start]) if start else True
    for index in range(start, len(whole)):
        sent = sent and await wire.wait(fault.interval) and wire.write(whole[index : index + 1])
        if not sent:
            break
    return sent


async def _huge(request: web.BaseRequest, wire: Wire, head: bytes, body: bytes, size: int) -> bool:
    padding = max(0, size - len(body))
    sent = wire.write(with_length(head, len(body) + padding) + body[:-1])
    return sent and await _pour(request, wire, _spaces(padding)) and wire.write(body[-1:])


async def _endless_headers(request: web.BaseRequest, wire: Wire, head: bytes, size: int) -> bool:
    wire.write(head[:-2])
    line = b"X-Filler: " + b"f" * 88 + b"\r\n"
    await _pour(request, wire, (line * 100 for _ in range(size // (len(line) * 100) + 1)))
    wire.end(reset=False)
    return False


async def _pour(request: web.BaseRequest, wire: Wire, chunks: Iterator[bytes]) -> bool:
    for chunk in chunks:
        if not wire.write(chunk):
            return False
        try:
            await request.writer.drain()
        except ConnectionError:
            return False
    return True


def _spaces(count: int) -> Iterator[bytes]:
    for start in range(0, count, _CHUNK):
        yield b" " * min(_CHUNK, count - start)
