"""Waiting for a condition, with a deadline: the only place of the tests that sleeps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WAITING_FOR_LOCKS = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def wait_until(condition: Callable[[], T], *, within_s: float = 20.0) -> T:
    """Return the first true value of a condition that is asked again and again; fail after so many seconds."""
    give_up = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"this did not come true within {within_s} s: {condition}")
        time.sleep(0.005)
