"""Notes when the escrow takes a copy: Valkey says so itself, of those keys alone."""

from __future__ import annotations

import re
import threading
import time

import redis

_KEY = re.compile(rb":qbo:escrow:(\d+):(\d+):\d+$")
_AWAY_S = 0.05


class Puts:
    """A thread that listens beside all proxies, and again after each restart.

    Attributes:
        seen: When, the connection's number (of grant 0, the authorization's), the grant's number.
    """

    def __init__(self, url: str) -> None:
        self.seen: list[tuple[float, int, int]] = []
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError):
                self._over.wait(_AWAY_S)

    def _listen(self) -> None:
        with redis.Redis.from_url(self._url) as client, client.pubsub() as said:
            client.config_set("notify-keyspace-events", "Kl")
            said.psubscribe("__keyspace@*__:qbo:escrow:*")
            while not self._over.is_set():
                message = said.get_message(timeout=0.5)
                found = _KEY.search(message["channel"]) if message and message["data"] == b"rpush" else None
                if found is not None:
                    self.seen.append((time.monotonic(), int(found[1]), int(found[2])))
