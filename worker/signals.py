"""Defers SIGTERM and Celery's soft time limit while a token is in hand. Only a main thread gets signals at all."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# SIGUSR1 is how Celery's prefork pool delivers the soft time limit.
_DEFERRED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1})


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Block these signals in this thread until the end of the block; then they are delivered."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFERRED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
