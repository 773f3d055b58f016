"""The way to the broker: kombu's Redis transport, less one error that would end a worker, and a client a message."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as ConnectionLost


class Channel(redis.Channel):
    """A channel that says so when its connection was closed, and keeps the client that it works with."""

    _kept: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # as kombu's
        # After a cut, kombu (5.7) gives messages back and acknowledges old ones on a channel whose transport is gone:
        # an AttributeError, which Celery takes for unrecoverable, where it takes a lost connection as it comes.
        if self.connection is None or self.connection.client is None:
            raise ConnectionLost("closed meanwhile")
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)  # type: ignore[misc] # not in its types
        return params

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002  # as kombu's
        # kombu (5.7) makes one for each message that it notes and each that it acknowledges: 0.06 ms of CPU apiece with
        # redis-py 8. A client is safe for threads and keeps nothing but its pool, which a lost connection replaces.
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[misc] # not in its types
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[misc] # not in its types
        return self._kept


class Transport(redis.Transport):
    """What kombu makes such channels of."""

    Channel = Channel


def use() -> None:
    """Have `redis://` and `rediss://` mean this transport in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
