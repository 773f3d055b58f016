"""A callback on this machine: one redirect of Intuit's is waited for, on loopback alone."""

from __future__ import annotations

import http.server
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from qbo_refresh.errors import QboRefreshError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>qbo-refresh connect</title></head>
<body><p>{sentence}</p><p>You may close this page; the rest is told in the terminal.</p></body></html>
"""
_ASK_EVERY_S = 0.5
_READ_WITHIN_S = 5.0


class NoCallback(QboRefreshError):
    """The browser did not come back, or there is no port to come back to."""


@dataclass(frozen=True, slots=True)
class Query:
    """What the redirect carried; empty where it carried nothing."""

    code: str = field(repr=False)
    state: str = field(repr=False)
    realm_id: str = field(repr=False)
    error: str


class _Server(http.server.ThreadingHTTPServer):
    """A thread for each request: browsers open connections on which they say nothing."""

    daemon_threads = False  # the page is sent before the program ends


class Callback:
    """Listens from its making on; a context manager."""

    def __init__(self, *, port: int, path: str) -> None:
        """Listen on a port of 127.0.0.1, a free one for 0.

        Raises:
            NoCallback: The port is taken.
        """
        self._found: Query | None = None
        self._path = path
        self._state = ""
        try:
            self._server = _Server(("127.0.0.1", port), self._handler())
        except OSError as error:
            raise NoCallback(f"Port {port} of this machine is taken: free it, or name another one.") from error
        self._server.timeout = _ASK_EVERY_S
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.server_close()

    def wait(self, within_s: float, *, state: str) -> Query:
        """Return what the redirect with this state carried; any other is turned away.

        Raises:
            NoCallback: It did not come in time.
        """
        self._state = state
        until = time.monotonic() + within_s
        while self._found is None:
            if time.monotonic() > until:
                raise NoCallback(f"The browser did not come back within {within_s:.0f} s: run it again.")
            self._server.handle_request()
        return self._found

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        callback = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = _READ_WITHIN_S

            def do_GET(self) -> None:  # http.server's name for it
                parts = urlsplit(self.path)
                given = {name: values[0] for name, values in parse_qs(parts.query).items()}
                if parts.path != callback._path or given.get("state") != callback._state:
                    self._answer(HTTPStatus.NOT_FOUND, "Nothing is here.")
                    return
                names = ("code", "state", "realmId", "error")
                callback._found = Query(*(given.get(name, "") for name in names))
                self._answer(HTTPStatus.OK, "Intuit's answer has arrived.")

            def _answer(self, status: HTTPStatus, sentence: str) -> None:
                body = _PAGE.format(sentence=sentence).encode()
                self.send_response(status)
                for name, value in (
                    ("Content-Type", "text/html; charset=utf-8"),
                    ("Content-Length", str(len(body))),
                    ("Cache-Control", "no-store"),
                    ("Referrer-Policy", "no-referrer"),
                ):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Print nothing: the path has the code in it."""

        return Handler
