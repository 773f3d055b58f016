"""The second place for a token between Intuit's answer and the save: sealed, in Redis. PostgreSQL is the truth.

Losing it, or all of Redis, changes no outcome; having it saves a token whose worker died, or whose database was away,
between the two.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from uuid import UUID

import redis

from worker import log
from worker.attempt import Received
from worker.consent import NO_GRANT_YET, NO_VERSION_YET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UNSETTLED_S = 30 * 24 * 3600
SETTLED_S = 25 * 3600  # a day for a database that fails over and forgets its last commits
_REST_AFTER_FAILURE_S = 5.0
_NO_LIMIT = 2**31
_PREFIX = "qbo:escrow:"
# A token that was saved as version n has base n - 1. Older ones are spent; newer ones exist if commits were lost.
_VERSIONS = range(-1, 9)
# A restored database may be days of hourly refreshes behind.
_FAR = range(-1, 1000)
# One round trip for both; a copy must not be without an end.
_PUT = "redis.call('RPUSH', KEYS[1], ARGV[1]) return redis.call('EXPIRE', KEYS[1], ARGV[2])"
_SETTLE_TOGETHER = 50


class RedisEscrow:
    """Implements `worker.attempt.Escrow`: a list per connection, grant and version; no copy replaces another."""

    def __init__(self, url: str) -> None:
        """Connect lazily, a connection a thread, with short timeouts: the save waits for this."""
        # One for each thread that asks: redis-py's own limit of 100 refused a copy where 100 threads and a sweep met.
        self._redis = redis.Redis.from_url(
            url, socket_timeout=1.0, socket_connect_timeout=1.0, max_connections=_NO_LIMIT
        )
        self._local = threading.local()
        self._rest_until = 0.0
        self._spoilt = log.Hourly()
        self._settled: deque[str] = deque()

    def _client(self) -> Any:
        try:
            client: Any = self._local.client
        except AttributeError:
            pool: Any = self._redis  # untyped where it is asked for a connection of one's own
            client = self._local.client = pool.client()
        return client

    @staticmethod
    def _key(connection_id: int, grant_number: int, base_version: int) -> str:
        return f"{_PREFIX}{connection_id}:{grant_number}:{base_version}"

    def connect(self) -> None:
        """Have this thread's connection stand before a token comes: its copy would wait for that, milliseconds."""
        if time.monotonic() < self._rest_until:
            return
        try:
            self._client()
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the copies, the attempt goes on
            self._rest_until = time.monotonic() + _REST_AFTER_FAILURE_S
            log.warning("escrow.unavailable", error=type(error).__name__)

    def put(self, received: Received) -> bool:
        """Keep a copy for 30 days; False if Redis did not take it."""
        if time.monotonic() < self._rest_until:
            return False
        key = self._key(received.connection_id, received.grant_number, received.base_version)
        command = ("EVAL", _PUT, 1, key, _encode(received), UNSETTLED_S)
        try:
            try:
                self._client().execute_command(*command)
            except redis.ConnectionError:
                # Ended by Redis or by a box between while it was idle, which shows only now. Two copies do no harm.
                self._client().execute_command(*command)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the copy, the save goes on
            # A Redis that hangs must cost the fleet one second in five, not one in each refresh.
            self._rest_until = time.monotonic() + _REST_AFTER_FAILURE_S
            log.warning("escrow.unavailable", connection_id=received.connection_id, error=type(error).__name__)
            return False
        return True

    def settle(self, received: Received) -> None:
        """Shorten the copy's life to 25 h: the save was acknowledged. Done for many at a time, sooner or later."""
        self._settled.append(self._key(received.connection_id, received.grant_number, received.base_version))
        if len(self._settled) >= _SETTLE_TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Do what `settle` has put off. What a killed worker did not flush lives 30 days, and harms nobody."""
        keys: list[str] = []
        with contextlib.suppress(IndexError):  # another thread may be taking them too
            while True:
                keys.append(self._settled.popleft())
        if not keys:
            return
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.expire(key, SETTLED_S)
                pipe.execute()
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the copy, the save goes on
            log.debug("escrow.not_settled", count=len(keys), error=type(error).__name__)

    def close(self) -> None:
        """Do what was put off, and end the connections of all threads. Who asks afterwards connects anew."""
        self.flush()
        self._redis.connection_pool.disconnect()

    def everything(self) -> Iterator[Received | None]:
        """Yield every copy there is, whoever it belongs to; None for an entry that is not of ours.

        Goes over all keys of this Redis, a thousand at a time, which is slow where it is shared with a large broker.

        Raises:
            RedisError: It cannot be asked.
        """
        untyped: Any = self._redis  # bytes or text, as far as redis-py says; bytes here
        for key in untyped.scan_iter(match=f"{_PREFIX}*", count=1000):
            numbers = key.decode("ascii", "replace").removeprefix(_PREFIX).split(":")
            if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):  # noqa: PLR2004  # as in _key
                yield None
                continue
            try:
                entries = untyped.lrange(key, 0, -1)
            except redis.ResponseError:  # not a list
                entries = [b""]
            connection_id, grant_number, base_version = map(int, numbers)
            for entry in entries:
                yield _decode(entry, connection_id, grant_number, base_version)

    def find(
        self, connection_id: int, *, grant_number: int, base_version: int, is_far: bool = False
    ) -> Sequence[Received] | None:
        """Return the copies that came after this version or in place of it, oldest first; None if Redis is away."""
        bases = [base_version + offset for offset in (_FAR if is_far else _VERSIONS)]
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for base in bases:
                    pipe.lrange(self._key(connection_id, grant_number, base), 0, -1)
                lists = pipe.execute()
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the copy, the save goes on
            log.warning("escrow.unavailable", connection_id=connection_id, error=type(error).__name__)
            return None
        found = [
            _decode(entry, connection_id, grant_number, base)
            for base, entries in zip(bases, lists, strict=True)
            for entry in entries
        ]
        if None in found:
            self._spoilt.error("escrow.entry_unreadable", connection_id=connection_id)
        return [received for received in found if received is not None]

    def forget(self, connection_id: int, *, authorization_ids: Sequence[int]) -> int:
        """Delete every copy of a connection's tokens, and of these consents; return how many lists there were.

        Raises:
            RedisError: Redis cannot be asked. Goes over all its keys: for a person's command, not for a task.
        """
        mine = re.compile(rf"{_PREFIX}{connection_id}:[1-9]\d*:\d+")  # grant 0 is the consent of that number
        found = [
            key
            for key in map(bytes.decode, self._redis.scan_iter(match=f"{_PREFIX}{connection_id}:*", count=1000))
            if mine.fullmatch(key)
        ]
        found += [self._key(authorization_id, NO_GRANT_YET, NO_VERSION_YET) for authorization_id in authorization_ids]
        return int(self._redis.unlink(*found)) if found else 0


def _encode(received: Received) -> bytes:
    return json.dumps(
        [
            str(received.attempt_id),
            base64.b64encode(received.refresh_token).decode(),
            base64.b64encode(received.fingerprint).decode(),
        ]
    ).encode()


def _decode(entry: bytes, connection_id: int, grant_number: int, base_version: int) -> Received | None:
    """Return what an entry holds, or None for one that is not of ours."""
    try:
        attempt_id, token, fingerprint = json.loads(entry)
        return Received(
            connection_id,
            grant_number,
            base_version,
            UUID(attempt_id),
            base64.b64decode(token, validate=True),
            base64.b64decode(fingerprint, validate=True),
        )
    except (ValueError, TypeError, AttributeError):
        return None
