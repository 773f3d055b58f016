"""How far a moment is from now, for people."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

_MINUTE = "%Y-%m-%d %H:%M"
_YEARS = 2 * 365


def utc(moment: datetime, *, form: str = _MINUTE) -> str:
    """Write a moment down in UTC, to the minute."""
    return moment.astimezone(UTC).strftime(form)


def from_now(moment: datetime | None, at: datetime) -> str:
    """Say how far a moment is from `at`: `in 3 h`, `2 days ago`."""
    if moment is None:
        return ""
    seconds = abs((moment - at).total_seconds())
    for unit, length, until in (("s", 1, 60), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < until:
            distance = f"{round(seconds / length)} {unit}"
            break
    else:
        days = round(seconds / 86400)
        distance = f"{days} days" if days < _YEARS else f"{days // 365} years"
    return f"in {distance}" if moment >= at else f"{distance} ago"
