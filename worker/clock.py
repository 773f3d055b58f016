"""The one home of this process's clocks. Leases and schedules use the database's clock instead."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return this machine's wall-clock time, aware and in UTC. It may be wrong: it decides nothing."""
    return datetime.now(UTC)  # noqa: TID251  # this is that home


def boottime() -> float:
    """Return seconds since boot, counting suspended time where the system can tell (Linux).

    A monotonic clock that stands still while a laptop sleeps would call a lease fresh that ended hours ago.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
