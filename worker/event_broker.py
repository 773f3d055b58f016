"""The host's broker, over one connection of kombu's: short timeouts, no retries, no wait for what does not answer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import kombu
from amqp.exceptions import NotFound
from kombu.exceptions import OperationalError

from qbo_refresh.errors import QboRefreshError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qbo_refresh.event_message import EventMessage
    from worker.settings import EventTarget

CONNECT_WITHIN_S = 3.0
ANSWER_WITHIN_S = 5.0
# A connection that fails may take both several times over: a name with addresses, a broker with alternates.


class BrokerTrouble(QboRefreshError):
    """The host's broker does not take an event now. `reason` is a word: unreachable, no_such_queue or refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _options(driver: str) -> dict[str, Any]:
    if driver == "redis":
        return {"socket_connect_timeout": CONNECT_WITHIN_S, "socket_timeout": ANSWER_WITHIN_S}
    if driver == "amqp":
        # Without confirms a publish returns when the bytes are in our own socket.
        return {"confirm_publish": True, "read_timeout": ANSWER_WITHIN_S, "write_timeout": ANSWER_WITHIN_S}
    return {}


def connection_to(target: EventTarget) -> kombu.Connection:
    """Return a connection that is not yet made."""
    connection = kombu.Connection(target.broker_url.reveal(), connect_timeout=CONNECT_WITHIN_S)
    connection.transport_options = _options(connection.transport.driver_type)
    return connection


def _connect(connection: kombu.Connection) -> None:
    connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1))


def answers(target: EventTarget) -> str:
    """Return what kind of broker answers (`redis`, `amqp`, …), over a connection that is closed again.

    Raises:
        BrokerTrouble: None does, or it refuses.
    """
    connection = connection_to(target)
    try:
        with _in_words(connection):
            _connect(connection)
        return str(connection.transport.driver_type)
    finally:
        _release(connection)


@contextlib.contextmanager
def reach(
    target: EventTarget, task_message: Callable[[EventTarget, EventMessage], Any]
) -> Iterator[Callable[[EventMessage], None]]:
    """Give a function that returns once an event is in the broker, over one connection.

    Args:
        target: The host's task, queue and broker.
        task_message: Makes Celery's message of an event: headers, properties, body.

    Raises:
        BrokerTrouble: It cannot be reached, has no such queue, or refuses. From the function, too.
    """
    connection = connection_to(target)
    try:
        with _in_words(connection):
            _connect(connection)
            channel: Any = connection.channel()
            if connection.transport.driver_type == "amqp":
                # To a queue that is not there the exchange would drop it, and confirm that. Passive: it is the host's.
                channel.queue_declare(target.queue, passive=True)
        producer = kombu.Producer(channel, auto_declare=False)

        def send(event: EventMessage) -> None:
            message = task_message(target, event)
            with _in_words(connection):
                _publish(producer, target.queue, message.headers, message.properties, message.body)

        yield send
    finally:
        _release(connection)


def _release(connection: kombu.Connection) -> None:
    with contextlib.suppress(BrokerTrouble), _in_words(connection):
        connection.release()


def _publish(
    producer: kombu.Producer, queue: str, headers: Mapping[str, Any], properties: Mapping[str, Any], body: Any
) -> None:
    # To the default exchange: it has every queue under its name, whatever the host has bound it to.
    producer.publish(
        body,
        exchange="",
        routing_key=queue,
        serializer="json",
        headers=dict(headers),
        delivery_mode=2,
        confirm_timeout=ANSWER_WITHIN_S,
        **properties,
    )


def _unreachable(connection: kombu.Connection) -> tuple[type[BaseException], ...]:
    return (OSError, OperationalError, *connection.connection_errors)


@contextlib.contextmanager
def _in_words(connection: kombu.Connection) -> Iterator[None]:
    """Turn what a driver says, which may quote an address, into a word."""
    try:
        yield
    except NotFound as error:
        raise BrokerTrouble("no_such_queue") from error
    except _unreachable(connection) as error:
        raise BrokerTrouble("unreachable") from error
    except Exception as error:
        # A transport may raise what it does not list: py-amqp's MessageNacked of a full queue, boto's own errors.
        raise BrokerTrouble("refused") from error
