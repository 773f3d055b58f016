"""Asking the worker, over the broker: a refresh, an exchange, an end. A message holds an id; nothing is waited for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from celery import Celery, current_app, current_task
from kombu import Exchange, Queue

from qbo_refresh import configuration
from qbo_refresh.errors import ConfigurationError
from qbo_refresh.names import ADHOC, REFRESH_CONNECTION
from qbo_refresh.standing import ONCE_IN

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbo_refresh.secret import Secret

# As the worker declares it, whatever the host's app says of queues that it does not know.
_QUEUE: Any = Queue(ADHOC, Exchange(ADHOC, type="direct"), routing_key=ADHOC)
_WITHIN_S = 3
_BOUNDED = {
    "max_retries": 1,
    "interval_start": 0,
    "connect_retries_timeout": _WITHIN_S,
}
_BOUNDED_REDIS = {"socket_timeout": _WITHIN_S, "socket_connect_timeout": _WITHIN_S}


def asker() -> Callable[[int, float | None], None]:
    """Return what asks for a refresh: connection id, and the seconds that a token has at most left if it is to go.

    It is found here and may be used in another thread, where Celery knows no current app.

    Raises:
        ConfigurationError: There is no app to send it with.
    """
    return functools.partial(_ask, app())


def app() -> Celery:
    """Return the Celery app that reaches the worker's broker: one of our own for WORKER_BROKER_URL, or the host's.

    Raises:
        ConfigurationError: There is none.
    """
    config = configuration.current()
    if config.broker_url is not None:  # named because the host's app has another one
        return _bare(config.broker_url)
    if config.app is not None:
        return config.app
    # The app itself and not Celery's proxy for it, which means another one in another thread.
    proxy: Any = current_app
    found: Celery = current_task.app if current_task else proxy._get_current_object()  # noqa: SLF001  # its public way
    if found.main == "default":
        # Celery's stand-in, on amqp://localhost. It knows its current app in the thread alone that has made it.
        raise ConfigurationError(
            "This thread has no Celery app: name yours, `qbo_refresh.configure(app=…)`, or set WORKER_BROKER_URL."
        )
    return found


@functools.lru_cache(maxsize=1)
def _bare(broker_url: Secret) -> Celery:
    return Celery("qbo_refresh_client", broker=broker_url.reveal(), set_as_current=False)


def _ask(app: Celery, connection_id: int, min_ttl_s: float | None) -> None:
    send(app, REFRESH_CONNECTION, connection_id, max_age=ONCE_IN.total_seconds(), min_ttl=min_ttl_s)


def send(app: Celery, task: str, row_id: int, **options: float | str | None) -> None:
    """Send a message, within seconds or not at all, on a connection of its own: the host's may retry for ever."""
    bounded = dict(_BOUNDED)
    with app.connection_for_write() as known:
        if known.transport.driver_type == "redis":
            bounded |= _BOUNDED_REDIS
    with app.connection_for_write(transport_options=bounded) as connection:
        app.send_task(
            task,
            args=[row_id],
            kwargs=options,
            queue=_QUEUE,
            serializer="json",
            producer=app.amqp.Producer(connection, auto_declare=False),
            retry=False,
            expires=None,
            ignore_result=True,
            add_to_parent=False,
        )
