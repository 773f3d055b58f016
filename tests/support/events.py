"""Hearing the events of Celery's workers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery import Celery


@contextmanager
def heard(app: Celery, handlers: Mapping[str, Callable[[dict[str, Any]], object]]) -> Iterator[None]:
    """Have a thread hear events, and each worker say at once that it is there.

    It is one subscription from beginning to end: what is published between two is lost.
    """
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers=handlers)
        listening = threading.Thread(target=receiver.capture, daemon=True)
        listening.start()
        try:
            yield
        finally:
            receiver.should_stop = True  # looked at after each event, and each second
            listening.join()
