"""Moments and durations in words, in UTC. Pure."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta


def to_the_millisecond(moment: datetime) -> str:
    """Write a moment down for programs, in ISO 8601."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def exactly(moment: datetime) -> str:
    """Write a moment down to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def long(duration: timedelta) -> str:
    """Say how long, in the unit that a person would use."""
    seconds = abs(duration.total_seconds())
    for unit, length, until in (
        ("s", 1, 90),
        ("min", 60, 90 * 60),
        ("h", 3600, 48 * 3600),
        ("days", 86400, 730 * 86400),
    ):
        if seconds < until:
            return f"{round(seconds / length)} {unit}"
    return f"{seconds / 86400 / 365.25:.1f} years"


def from_now(moment: datetime | None, at: datetime) -> str:
    """Say how far a moment is from `at`: `in 3 h`, `2 days ago`; an empty text for None."""
    if moment is None:
        return ""
    distance = long(moment - at)
    return f"in {distance}" if moment > at else f"{distance} ago"


def when(moment: datetime, at: datetime) -> str:
    """Write a moment down with its distance from now: `2026-11-23 18:30:05, in 3 h`."""
    return f"{exactly(moment)}, {from_now(moment, at)}"


def about(moment: datetime, at: datetime) -> str:
    """The same to the minute: `2026-11-23 18:30 (in 3 h)`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} ({from_now(moment, at)})"
