"""Structured log lines: a constant event name and fields that are ids, words and numbers; never text from outside.

A record has its fields under one name, so that none can collide with `logging`'s own attributes.
"""

from __future__ import annotations

import logging

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
