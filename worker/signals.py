"""Defers SIGTERM and Celery's soft time limit while a token is in hand. Only a main thread gets signals at all."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# SIGUSR1 is how Celery's prefork pool delivers the soft time limit.
_DEFERRED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Note these signals until the end of the block, then deliver them.

    A signal mask would not do: it is the thread's, and a signal that another thread takes still runs its handler here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in _DEFERRED}
    for number, handler in before.items():
        if handler is not None:  # a handler that is not Python's cannot be put back, and raises nothing here
            signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        for seen in dict.fromkeys(arrived):
            signal.raise_signal(seen)
