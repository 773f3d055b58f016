"""Looks for secrets where none may be: in clear, base64 at each alignment, URL-encoded, hex and JSON-escaped."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CERTAIN = 3  # of base64: its bytes on both sides depend on what stands beside the secret


def forms(secret: bytes) -> Iterator[bytes]:
    """Yield what a secret looks like in the encodings that a leak may wear."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for alignment in range(3):
        coded = base64.b64encode(bytes(alignment) + secret).rstrip(b"=")
        core = coded[4 if alignment else 0 : -_CERTAIN]
        yield core
        yield core.replace(b"+", b"-").replace(b"/", b"_")
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return
    yield quote(text, safe="").encode()
    yield quote_plus(text).encode()
    yield quote(text, safe="").lower().encode()
    yield json.dumps(text)[1:-1].encode()
    yield json.dumps(json.dumps(text)[1:-1])[1:-1].encode()
    bare = json.dumps(text, ensure_ascii=False)[1:-1]
    yield bare.encode()
    yield bare.replace("/", "\\/").encode()
    yield repr(text)[1:-1].encode()


class Canaries:
    """Secrets by name, to be looked for."""

    def __init__(self, secrets: Mapping[str, bytes | str]) -> None:
        given = {name: each.encode() if isinstance(each, str) else each for name, each in secrets.items()}
        self._needles = {form: name for name, each in given.items() for form in forms(each)}

    def found_in(self, text: bytes) -> set[str]:
        """Return the names of those that a text holds in whatever form."""
        return {name for needle, name in self._needles.items() if needle in text}


class EnvelopeSink:
    """A Sentry of our own, which takes whatever its real transport sends."""

    def __init__(self) -> None:
        taken: list[bytes] = []

        class Take(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                taken.append(str(self.headers).encode())
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.taken = taken
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self.dsn = f"http://public@127.0.0.1:{self._server.server_port}/1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def text(self) -> bytes:
        """Return everything that was sent."""
        return b"\n".join(self.taken)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def files_below(directory: Path) -> bytes:
    """Return what all files below a directory hold; those that vanish meanwhile are left out."""
    texts = []
    for file in sorted(directory.rglob("*")):
        try:
            if file.is_file():
                texts.append(file.read_bytes().rstrip(b"\0"))
        except OSError:
            continue
    return b"\n".join(texts)


def command_lines() -> bytes:
    """Return the arguments of every process of this machine."""
    texts = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(file.read_bytes())
        except OSError:
            continue
    return b"\n".join(texts)
