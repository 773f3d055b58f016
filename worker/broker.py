"""The way to the broker: kombu's Redis transport, less what would end a worker, and a client a message."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis import Redis
from redis.exceptions import ConnectionError as ConnectionLost

from worker import clock, log, messages, queues


class Reader(Redis):
    """A client of Redis that takes no message for a worker but such as Celery can work with."""

    def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """Return what Redis answered; a message that is refused is gone, and its place empty."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer:
            return answer
        queue = answer[0].decode(errors="replace").partition(redis.Channel.sep)[0]  # less its priority
        if queue in queues.ALL and (fault := messages.fault(answer[1], now=clock.now())):
            log.error("message.refused", queue=queue, reason=fault)
            return None
        return answer


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

    def _get_client(self) -> type[Redis]:
        super()._get_client()  # type: ignore[misc] # not in its types; it looks at redis-py's version
        return Reader

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
