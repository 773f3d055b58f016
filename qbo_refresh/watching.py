"""Waiting for the worker: how often its rows are looked at, and one watch for all callers who want the same token."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from qbo_refresh.database import DatabaseAway
from qbo_refresh.errors import TemporarilyUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qbo_refresh.other_side import OtherSide
    from qbo_refresh.standing import Standing

T = TypeVar("T")

TIMEOUT = timedelta(seconds=8)
RETRY_AFTER_S = 15.0
_FIRST_PAUSE_S = 0.015
_LATER_PAUSES = 1.4  # each so many times as long as the one before
# A token is waited for in the middle of a host's work; a person waits for the end of a connection, or for a consent.
_LONGEST_PAUSE_S, _LONGEST_PAUSE_OF_A_PERSON_S = 0.05, 0.25

_lock = threading.Lock()
_watches: dict[tuple[int, int, float | None], _Watch] = {}


def seconds(given: timedelta | float) -> float:
    """Return a duration that a host gave, a timedelta or seconds, in seconds."""
    return given.total_seconds() if isinstance(given, timedelta) else given


def _pauses(longest_s: float) -> Iterator[float]:
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * _LATER_PAUSES, longest_s)


def looks(until: float) -> Iterator[None]:
    """Yield for each look at a row that somebody waits for: at once, then after pauses, until `time.monotonic()`."""
    for pause in _pauses(_LONGEST_PAUSE_OF_A_PERSON_S):
        yield
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))


class _Watch:
    """One thread that asks once and then reads the row again and again while somebody waits."""

    def __init__(self, side: OtherSide, before: Standing, min_ttl_s: float | None) -> None:
        self.key = (before.connection_id, before.version, min_ttl_s)
        self.waiting = 0
        self.changed = threading.Condition()
        self.latest = before
        self.trouble: BaseException | None = None
        self.broker_away = False
        self._side, self._min_ttl_s, self._ask = side, min_ttl_s, side.asker()

    def run(self) -> None:
        if self.latest.lease_id is None:
            threading.Thread(target=self._send, daemon=True, name="qbo-refresh-ask").start()
        for pause in _pauses(_LONGEST_PAUSE_S):
            if self._is_over():
                return
            time.sleep(pause)
            self._look()

    def _send(self) -> None:
        """In a thread of its own: whatever a broker does that is away, the row is looked at meanwhile."""
        try:
            self._ask(self.latest.connection_id, self._min_ttl_s)
        except Exception:  # noqa: BLE001  # each transport has its own, and none is more than "not sent"
            with self.changed:
                self.broker_away = True
                self.changed.notify_all()

    def _look(self) -> None:
        try:
            latest = self._side.read(self.latest.connection_id)
        except DatabaseAway:
            return  # it may come back within the callers' time
        except Exception as error:  # noqa: BLE001  # raised where somebody waits for it
            with self.changed:
                self.trouble = error
                self.changed.notify_all()
            return
        with self.changed:
            happened = latest.marks() != self.latest.marks()
            self.latest = latest
            if happened:
                self.changed.notify_all()

    def _is_over(self) -> bool:
        with _lock:
            return self.waiting == 0  # nobody joins any more: see `_leave`


def wait(
    side: OtherSide,
    before: Standing,
    *,
    min_ttl_s: float | None,
    answer: Callable[[Standing], T | None],
    timeout_s: float,
) -> T:
    """Ask for a refresh and return the first answer that a later standing of the connection gives.

    Args:
        side: What is asked and read.
        before: How the connection stood.
        min_ttl_s: Refresh only if the token has no more time left than this; None for whatever it has.
        answer: Gives an answer, None to go on waiting, or raises.
        timeout_s: How long to wait at most.

    Raises:
        TemporarilyUnavailable: The broker is away, the attempt failed, or nothing came in time.
    """
    end = time.monotonic() + timeout_s
    watch = _join(side, before, min_ttl_s)
    try:
        with watch.changed:
            while True:
                found = answer(watch.latest)
                if found is not None:
                    return found
                _check(watch, before)
                left = end - time.monotonic()
                if left <= 0:
                    raise TemporarilyUnavailable("no_answer", RETRY_AFTER_S, before.connection_id)
                watch.changed.wait(left)
    finally:
        _leave(watch)


def _check(watch: _Watch, before: Standing) -> None:
    """Return if there is still something to wait for."""
    latest = watch.latest
    if watch.trouble is not None:
        raise watch.trouble
    if latest.lease_id is None and watch.broker_away:
        raise TemporarilyUnavailable("broker_unavailable", RETRY_AFTER_S, before.connection_id)
    latest.check_refreshable()
    if latest.has_ended_since(before):
        raise TemporarilyUnavailable(latest.pause_reason, RETRY_AFTER_S, before.connection_id)


def _join(side: OtherSide, before: Standing, min_ttl_s: float | None) -> _Watch:
    key = (before.connection_id, before.version, min_ttl_s)
    with _lock:
        watch = _watches.get(key)
        if watch is not None:
            watch.waiting += 1
            return watch
        watch = _watches[key] = _Watch(side, before, min_ttl_s)
        watch.waiting += 1
    threading.Thread(target=watch.run, daemon=True, name="qbo-refresh-watch").start()
    return watch


def _leave(watch: _Watch) -> None:
    """Stop waiting. Whoever comes from now on asks anew: what this watch waited for is over, or its message is old."""
    with _lock:
        watch.waiting -= 1
        if _watches.get(watch.key) is watch:
            del _watches[watch.key]


def _after_fork() -> None:
    """Forget the parent's watches: their threads are not here."""
    global _lock  # noqa: PLW0603  # another thread may have held it
    _lock = threading.Lock()
    _watches.clear()


os.register_at_fork(after_in_child=_after_fork)
