"""One POST that is sent whole or not at all, ends in time, and is never delivered after we gave up.

`requests` has no total timeout, does not say whether a byte left, and lets the kernel deliver after `close`. So the
connection under it is ours: it resolves names with a deadline, asks a gate before the first byte, writes head and body
in one go, and reads against the same deadline. Knows nothing of OAuth.
"""

from __future__ import annotations

import http.client
import io
import logging
import socket
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

from worker import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3 import BaseHTTPResponse

# It warns of malformed headers and quotes what follows them, which may be the body with the tokens.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
# And this one writes down every path: that of a company has the realm id in it.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

BODY_CAP_BYTES = 64 * 1024
_LATE_AT_MOST_BYTES = 2 * BODY_CAP_BYTES
IDLE_LIMIT_S = 15.0
# RST instead of FIN: the kernel throws away what it has not delivered yet when we give up.
_LINGER_RESET = struct.pack("ii", 1, 0)
_resolver = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")


class NotSent(Exception):
    """No byte of the request was handed to the socket."""


class Interrupted(Exception):
    """The request, or part of it, was handed to the socket, and no status line and headers came back."""


@dataclass(slots=True)
class Call:
    """One POST under way.

    Attributes:
        deadline: `clock.boottime()` at which it ends, whatever it is doing.
        before_first_byte: Raises if the request must not be sent any more.
        idle_limit_s: A connection that has been idle for longer is not used again.
        sent: A byte may have been handed to the socket.
    """

    deadline: float
    before_first_byte: Callable[[], None]
    idle_limit_s: float = IDLE_LIMIT_S
    sent: bool = False

    def remaining_s(self) -> float:
        """Return the seconds left.

        Raises:
            TimeoutError: None is.
        """
        left = self.deadline - clock.boottime()
        if left <= 0:
            raise TimeoutError("the total deadline has passed")
        return left


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """Status, headers (names in lower case) and as much of the body as came, at most BODY_CAP_BYTES.

    Attributes:
        complete: The body ended where it said it would.
        last_byte_at: `clock.boottime()` when the last byte had been read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    complete: bool
    last_byte_at: float


_call: ContextVar[Call] = ContextVar("call")


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket against the call's total deadline instead of a timeout for each read."""

    def __init__(self, raw: socket.SocketIO, sock: socket.socket, call: Call) -> None:
        self._raw, self._sock, self._call = raw, sock, call
        self._late = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._call.deadline - clock.boottime()
        self._sock.settimeout(max(0.0, left))
        read = self._raw.readinto(buffer)
        # What is there already is read after the deadline, too, as much as an answer may be: this process may have been
        # frozen, and the new token may be in here.
        if left <= 0:
            self._late += read or 0
            if read is None or self._late > _LATE_AT_MOST_BYTES:
                raise TimeoutError("the total deadline has passed")
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock.makefile("rb", buffering=0), sock, _call.get()))

    def begin(self) -> None:
        """Read the head of the answer, past interim ones (RFC 9110 section 15.2): a 103 before the 200 is no answer."""
        super().begin()
        while HTTPStatus.SWITCHING_PROTOCOLS < self.status < HTTPStatus.OK:
            self.headers = None  # type: ignore[assignment]  # as before the first: the next `begin` reads on
            super().begin()


class _Guarded(HTTPConnection):
    """The part of a connection that is ours; mixed into urllib3's plain and TLS ones."""

    response_class = _Response
    _idle_since = 0.0
    _held: bytearray | None = None

    @property
    def is_connected(self) -> bool:
        # Servers and middleboxes drop idle sockets; a write to one of those would be an answer we never get.
        return clock.boottime() - self._idle_since < _call.get().idle_limit_s and super().is_connected

    def _new_conn(self) -> socket.socket:
        call = _call.get()
        resolving = _resolver.submit(
            socket.getaddrinfo, self._dns_host, self.port, allowed_gai_family(), socket.SOCK_STREAM
        )
        try:
            addresses = resolving.result(call.remaining_s())
        except TimeoutError as error:
            resolving.cancel()
            raise NewConnectionError(self, "name resolution took too long") from error
        except OSError as error:
            raise NameResolutionError(self.host, self, socket.gaierror(str(error))) from error
        failure: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                remaining = call.remaining_s()
                sock.settimeout(remaining)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                if sys.platform == "linux":
                    # What is not acknowledged by then is dropped by the kernel, even if this process is frozen.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(remaining * 1000)))
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise NewConnectionError(self, f"no address of the host could be connected to ({failure})") from failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Write head and body in one go, so that no freeze can fall between the gate and half a request."""
        self._held = bytearray()
        try:
            super().request(*args, **kwargs)
            data = bytes(self._held)
        finally:
            self._held = None
        if self.sock is None:
            self.connect()
        call = _call.get()
        self.sock.settimeout(call.remaining_s())
        call.before_first_byte()
        call.sent = True
        super().send(data)

    def send(self, data: Any) -> None:
        if self._held is not None:
            self._held += data
        else:
            super().send(data)


class _GuardedHTTP(_Guarded, HTTPConnection):
    pass


class _GuardedHTTPS(_Guarded, HTTPSConnection):
    pass


class _Dating(HTTPConnectionPool):
    """The part of a pool that is ours; mixed into urllib3's plain and TLS ones."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn._idle_since = clock.boottime()  # noqa: SLF001  # our own class
        super()._put_conn(conn)


class _HTTPPool(_Dating):
    ConnectionCls = _GuardedHTTP


class _HTTPSPool(_Dating, HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


class _Adapter(HTTPAdapter):
    """The adapter of `requests`, for its TLS set-up and its pools.

    Its `send` is not used: it would build a Response, a cookie jar and a history, a third of the CPU of each call, and
    none of that is wanted here.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def pool_for(self, url: str) -> HTTPConnectionPool:
        """Return the pool of a URL's host, its certificate verified against the roots that `requests` trusts."""
        adapter: Any = self  # typed in parts only
        pool: HTTPConnectionPool = adapter.get_connection_with_tls_context(
            requests.Request("POST", url).prepare(), verify=True
        )
        adapter.cert_verify(pool, url, verify=True, cert=None)
        return pool


class Transport:
    """The connections of one thread. Not shared between threads: a request's deadline belongs to its thread."""

    def __init__(self) -> None:
        self._adapter = _Adapter(pool_connections=4, pool_maxsize=1)
        self._targets: dict[str, tuple[HTTPConnectionPool, str]] = {}

    def post(self, url: str, *, headers: Mapping[str, str], body: bytes, call: Call) -> RawAnswer:
        """Send one POST and read its answer. See `_send`."""
        return self._send("POST", url, {**headers, "Content-Length": str(len(body))}, body, call)

    def get(self, url: str, *, headers: Mapping[str, str], call: Call) -> RawAnswer:
        """Send one GET and read its answer. See `_send`; targets that are many are not kept."""
        try:
            return self._send("GET", url, headers, None, call)
        finally:
            self._targets.pop(url, None)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, call: Call) -> RawAnswer:
        """Send one request and read its answer: no redirects, retries, cookies, and no proxies or netrc of the system.

        Raises:
            NotSent: No byte was handed to the socket; what `before_first_byte` raised passes through unchanged.
            Interrupted: One was, and no status line and headers came back.
        """
        token = _call.set(call)
        try:
            pool, target = self._target(url)
            return _read(
                pool.urlopen(
                    method,
                    target,
                    body=body,
                    headers=dict(headers),
                    retries=False,
                    redirect=False,
                    assert_same_host=False,
                    timeout=call.remaining_s(),
                    preload_content=False,
                    decode_content=False,
                )
            )
        except (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if call.sent:
                # Without the cause: its text may quote what came, and that may be a token.
                raise Interrupted(type(error).__name__) from None
            raise NotSent(type(error).__name__) from None
        finally:
            _call.reset(token)

    def _target(self, url: str) -> tuple[HTTPConnectionPool, str]:
        if url not in self._targets:
            self._targets[url] = self._adapter.pool_for(url), urlsplit(url)._replace(scheme="", netloc="").geturl()
        return self._targets[url]

    def close(self) -> None:
        """Close every socket."""
        self._adapter.close()
        self._targets.clear()


def _read(response: BaseHTTPResponse) -> RawAnswer:
    """Read what comes of the body. Bytes that came before a cut are kept: a token may be whole among them."""
    received, complete = bytearray(), True
    try:
        while len(received) <= BODY_CAP_BYTES and (chunk := response.read1(BODY_CAP_BYTES, decode_content=False)):
            received += chunk
    except (HTTPError, http.client.HTTPException, OSError, ValueError):
        complete = False
    last_byte_at = clock.boottime()
    if not complete or len(received) > BODY_CAP_BYTES:
        complete = False
        response.close()
    headers = {name.lower(): value for name, value in response.headers.items()}
    body, whole = _decoded(bytes(received[:BODY_CAP_BYTES]), headers.get("content-encoding", ""))
    return RawAnswer(response.status, headers, body, complete and whole, last_byte_at)


def _decoded(body: bytes, encoding: str) -> tuple[bytes, bool]:
    """Return the body unpacked, at most BODY_CAP_BYTES of it, and whether that is all. We never ask for an encoding."""
    if encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        return body, True
    unpacker = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, whichever the header says
    try:
        unpacked = unpacker.decompress(body, BODY_CAP_BYTES)
    except zlib.error:
        return b"", False
    return unpacked, unpacker.eof
