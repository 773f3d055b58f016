"""The third clock: a grant ends five years after consent whatever is done (Intuit's policy of 2025-11-12).

Intuit says how much is left only if it is asked to, and not always: a window that no longer rolls shows the end, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

NOTICES_DAYS = (1, 7, 30, 90)
# Seconds left are counted from the answer, so that the same end comes out a little different each time.
SAME = timedelta(hours=1)
_BETWEEN_ROTATIONS = timedelta(hours=20)
# A window that is this short has been cut. One odd answer about a longer one must not become an end that stays.
_CUT_WINDOW = timedelta(days=NOTICES_DAYS[-1])


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the row knows of its grant's ends; None is not known.

    Attributes:
        refresh_expires_at: The end of the rolling window.
        hard_expires_at: The end of the five years.
        obtained_at: When the row's token was received.
        told_days: The last notice that was sent, in days before the end.
    """

    refresh_expires_at: datetime | None = None
    hard_expires_at: datetime | None = None
    obtained_at: datetime | None = None
    told_days: int | None = None


def hard_lifetime(
    clocks: Clocks, refresh_lifetime: timedelta | None, said: timedelta | None, *, now: datetime, rotated: bool
) -> timedelta | None:
    """Return what is known of the grant's end from this answer on; None if it says nothing new.

    Without Intuit's word: a new value, a day later, whose window ends when the old one's did has met the ceiling, once
    that is no further off than the first notice.
    """
    if said is not None or clocks.hard_expires_at is not None or not rotated:
        return said
    before, obtained_at = clocks.refresh_expires_at, clocks.obtained_at
    if refresh_lifetime is None or before is None or obtained_at is None or now - obtained_at < _BETWEEN_ROTATIONS:
        return None
    if refresh_lifetime > _CUT_WINDOW:
        return None
    return refresh_lifetime if abs(now + refresh_lifetime - before) <= SAME else None


def in_time(clocks: Clocks, lifetime: timedelta | None, planned: timedelta, *, now: datetime) -> timedelta:
    """Return when to refresh next: as planned, or sooner if that would step over the last notice, a day before the end.

    Its time is as long as the time between two refreshes: without this, one in a while falls on either side of it.
    """
    left = _left(clocks, lifetime, now=now)
    last = timedelta(days=NOTICES_DAYS[0])
    return left - last if left is not None and last < left < planned + last / 2 else planned


def _left(clocks: Clocks, lifetime: timedelta | None, *, now: datetime) -> timedelta | None:
    if lifetime is None and clocks.hard_expires_at is not None:
        return clocks.hard_expires_at - now
    return lifetime


def notice(clocks: Clocks, lifetime: timedelta | None, *, now: datetime) -> int | None:
    """Return which notice is due, in days before the end, or None: each is sent once."""
    left = _left(clocks, lifetime, now=now)
    if left is None:
        return None
    due = next((days for days in NOTICES_DAYS if left <= timedelta(days=days)), None)
    if due is None or (clocks.told_days is not None and clocks.told_days <= due):
        return None
    return due
