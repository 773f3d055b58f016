"""The guardian's end of the channel to its parent: one JSON object a line."""

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable
from typing import Any

LOOK_AROUND_SECONDS = 1.0


class Parent:
    """The other end of the socket pair."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = os.getppid()
        self._received = b""

    def tell(self, message: dict[str, Any]) -> None:
        """Send one object; that the parent is gone is for `order` to notice."""
        with contextlib.suppress(OSError):
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def order(self, when_idle: Callable[[], None] = lambda: None) -> dict[str, Any] | None:
        """Return the next order, or None once the parent is gone; call `when_idle` each second until then."""
        while b"\n" not in self._received:
            # A forked child of the parent may hold our channel open for longer than the parent lives.
            if os.getppid() != self._pid:
                return None
            if not select.select([self._channel], [], [], LOOK_AROUND_SECONDS)[0]:
                when_idle()
                continue
            try:
                received = self._channel.recv(65536)
            except OSError:
                return None
            if not received:
                return None
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order
