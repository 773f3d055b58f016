"""The way to the broker: kombu's Redis transport, less what would end a worker and two costs of each message."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager, suppress
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from redis import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as TimedOut

from worker import clock, log, messages, queues

if TYPE_CHECKING:
    from collections.abc import Iterator

ACKNOWLEDGED_WITHIN_S: Final = 0.25
# What changes nothing when it comes again an hour later. A disconnect might end a newer consent.
_MAY_COME_AGAIN: Final = frozenset({queues.REFRESH_DUE, queues.REFRESH_CONNECTION})

_refusals = log.Hourly()


class QoS(redis.QoS):
    """The messages taken and not acknowledged. A refresh's acknowledgement goes along with the next message's note.

    kombu (5.7) makes a trip to Redis for each: 7 % of a refresh's CPU at 100 in flight. One that dies with its process
    or connection is a message that comes again after the visibility timeout, as if that had died a moment earlier.
    """

    channel: Any  # Channel
    _delivered: Any  # by tag

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done: deque[str] = deque()  # threads that work put something in while others take it out
        self._done_since = 0.0

    def ack(self, delivery_tag: str) -> None:
        """Keep a refresh's acknowledgement for the next trip; without an event loop to come back for it, make that now.

        Raises:
            ConnectionLost: The channel was closed: the message has been given back.
        """
        message = self._delivered.get(delivery_tag)
        may_come_again = message is not None and message.headers.get("task") in _MAY_COME_AGAIN
        may_wait = self.channel.belongs_to.cycle.is_looped and may_come_again
        if not self._done:
            self._done_since = time.monotonic()
        self._done.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        if not may_wait:
            self._make_the_trip()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  # as kombu's
        """As kombu's, whose own trip for a message that nobody is to have would leave `pipe_or_acquire` unmade."""
        if requeue:
            super().reject(delivery_tag, requeue=True)
        else:
            self.ack(delivery_tag)

    def acknowledge_old(self) -> None:
        """Make the trip if no message has come to go along with."""
        if self._done and time.monotonic() - self._done_since >= ACKNOWLEDGED_WITHIN_S:
            self._make_the_trip()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Acknowledge what is done, at the end of the channel, before kombu gives back what is not."""
        with suppress(ConnectionLost, TimedOut):
            self._make_the_trip()
        super().restore_unacked_once(stderr)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """As kombu's, but a new pipeline begins with the acknowledgements. It is executed in here, or they are lost."""
        with super().pipe_or_acquire(pipe, client) as commands:
            done = [] if pipe is not None else self._take_done()
            if done:
                commands.zrem(self.unacked_index_key, *done).hdel(self.unacked_key, *done)
            try:
                yield commands
            except BaseException:
                self._done.extend(done)  # once more if they did arrive, which changes nothing
                raise

    def _take_done(self) -> list[str]:
        done: list[str] = []
        with suppress(IndexError):  # another thread may be taking them too
            while True:
                done.append(self._done.popleft())
        return done

    def _make_the_trip(self) -> None:
        if self._done:
            with self.pipe_or_acquire() as commands:
                commands.execute()


class Poller(redis.MultiChannelPoller):
    """Comes by at each turn of the event loop, if there is one."""

    _channels: set[Any]  # Channel
    is_looped = False

    def on_poll_init(self, poller: Any) -> None:
        """Know that an event loop has this poller."""
        self.is_looped = True
        super().on_poll_init(poller)

    def on_poll_start(self) -> None:
        """Take care of acknowledgements before the loop falls asleep, for a second at most."""
        for channel in self._channels:
            channel.qos.acknowledge_old()
        super().on_poll_start()


class Reader(Redis):
    """A client of Redis that takes no message for a worker but such as Celery can work with.

    Attributes:
        refused_from: The queue that the last answer was refused from, if it was.
    """

    refused_from: str | None = None

    def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """Return what Redis answered; a message that is refused is gone, and its place empty."""
        self.refused_from = None
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer:
            return answer
        queue = answer[0].decode(errors="replace").partition(redis.Channel.sep)[0]  # less its priority
        if queue in queues.ALL and (fault := messages.fault(answer[1], now=clock.now())):
            self.refused_from = queue
            _refusals.error("message.refused", kind=fault, queue=queue, reason=fault)
            return None
        return answer


class Channel(redis.Channel):
    """A channel that says so when its connection was closed, and keeps the client that it works with."""

    QoS = QoS

    _kept: Any = None
    _queue_cycle: Any

    @property
    def belongs_to(self) -> Any:
        """Return what the channel belongs to.

        After a cut, kombu (5.7) gives messages back and acknowledges old ones on a channel whose transport is gone: an
        AttributeError, which Celery takes for unrecoverable, where it takes a lost connection as it comes.

        Raises:
            ConnectionLost: It belongs to nothing any more.
        """
        if self.connection is None or self.connection.client is None:
            raise ConnectionLost("closed meanwhile")
        return self.connection

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # as kombu's
        _ = self.belongs_to
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)  # type: ignore[misc] # not in its types
        return params

    def _brpop_read(self, **options: Any) -> Any:
        """As kombu's, which would ask the same queue first after a refusal: a flood would hold up the others."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc] # not in its types
        except Empty:
            if self.client.refused_from is not None:
                self._queue_cycle.rotate(self.client.refused_from)
            raise

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()


def use() -> None:
    """Have `redis://` and `rediss://` mean this transport in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
