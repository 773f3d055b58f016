"""A TCP proxy before PostgreSQL that can swallow one answer and cut the connection, as a failing network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType


class CuttingProxy:
    """Passes everything on, until the answer to a statement with a certain text is to be lost."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._server = (parts.hostname or "", parts.port or 5432)
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()
        self._lose: bytes | None = None
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_the_answer_to(self, text: str) -> None:
        """Lose the answer to the next statement that holds this text; the server has carried it out by then."""
        self._lose = text.encode()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            losing = threading.Event()
            back = threading.Thread(target=self._pass_back, args=(server, client, losing), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(1 << 16):
                    if self._lose is not None and self._lose in data:
                        self._lose = None
                        losing.set()
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)
            back.join()

    def _pass_back(self, server: socket.socket, client: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if losing.is_set():
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
