"""Structured log lines: a constant event name and fields that are ids, words and numbers; never text from outside.

A record has its fields under one name, so that none can collide with `logging`'s own attributes.
"""

from __future__ import annotations

import logging
import time

ERROR_EVERY_S = 3600.0

logger = logging.getLogger("qbo_refresh")

Field = str | int | float | bool | None


def _line(event: str, fields: dict[str, Field]) -> str:
    return " ".join((event, *(f"{name}={value}" for name, value in fields.items() if value is not None)))


def debug(event: str, **fields: Field) -> None:
    """Log what only a developer wants to see."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug(_line(event, fields), extra={"event": event, "fields": fields})


def info(event: str, **fields: Field) -> None:
    """Log what happened as it should."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(_line(event, fields), extra={"event": event, "fields": fields})


def warning(event: str, **fields: Field) -> None:
    """Log what somebody may want to know."""
    logger.warning(_line(event, fields), extra={"event": event, "fields": fields})


def error(event: str, **fields: Field) -> None:
    """Log what somebody must mend. Sentry makes an issue of it, grouped by the event's name."""
    logger.error(_line(event, fields), extra={"event": event, "fields": fields})


class Hourly:
    """Errors that somebody may cause by the thousand: for each kind one an hour, and warnings between."""

    def __init__(self) -> None:
        self._told_at: dict[str, float] = {}

    def error(self, event: str, *, kind: str = "", **fields: Field) -> None:
        """Log it as an error if this process has not done so within the hour, else as a warning."""
        now = time.monotonic()
        told_at = self._told_at.get(kind)
        is_news = told_at is None or now - told_at >= ERROR_EVERY_S
        if is_news:
            self._told_at[kind] = now
        (error if is_news else warning)(event, **fields)
