"""When a connection goes next: after failures, after a success, and how fast a fleet starts again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from worker.policy.pace import DAY, LONGEST_BACKOFF, Pace

# The longest wait is shorter than the escrow keeps what was saved (25 h): after a failover that forgot a save, the copy
# is still there when the connection is asked next.
SOONER, LATER = timedelta(hours=4), timedelta(minutes=50)
_FIRST_SHARE = 0.1


def backoff(failures: int, *, jitter: float, pace: Pace) -> timedelta:
    """Return the pause after that many failures in a row: doubling from the first to an hour, jittered, never more."""
    doubled: timedelta = pace.backoff * 2 ** min(max(failures, 1) - 1, 12)
    return min(doubled * (1 + jitter / 4), LONGEST_BACKOFF)


def slot(connection_id: int) -> timedelta:
    """Return the connection's own time of day (UTC).

    Multiples of the golden ratio fill a circle evenly for any run of ids, so that load spreads over the day without
    anyone keeping count.
    """
    return DAY * ((connection_id * 0.6180339887498949) % 1.0)


def until_slot(connection_id: int, *, now: datetime) -> timedelta:
    """Return how long it is until the connection's own time of day next comes, less than a day."""
    now = now.astimezone(UTC)  # the database's session may be in any zone
    since_midnight = timedelta(hours=now.hour, minutes=now.minute, seconds=now.second)
    return (slot(connection_id) - since_midnight) % DAY


def next_refresh_in(connection_id: int, *, now: datetime) -> timedelta:
    """Return when to refresh after a success: in 24 h, moved by at most -4 h or +50 min towards its own time of day.

    A fleet that an outage has bunched together is spread again within five days; one that is spread stays at 24 h.
    """
    ahead = until_slot(connection_id, now=now)
    # Whichever way takes fewer days: later at fifty minutes a day, or earlier at four hours.
    if ahead / LATER <= (DAY - ahead) / SOONER:
        return DAY + min(ahead, LATER)
    return DAY - min(DAY - ahead, SOONER)


def ramp(since: timedelta | None) -> float:
    """Return which share of its rate a fleet goes at, so long after it was let go again; all of it if None.

    A tenth in the first minute, and twice as much in each further one: what is still wrong then shows on few.
    """
    if since is None:
        return 1.0
    minutes = max(since, timedelta(0)) // timedelta(minutes=1)
    return min(1.0, _FIRST_SHARE * 2.0 ** min(minutes, 10))
