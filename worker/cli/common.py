"""What commands share: the `--json` option, how lines are printed, and how the database is opened."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

from worker import schema, settings
from worker.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.settings import Settings

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (a line) instead of text.")


@contextlib.contextmanager
def open_database(config: Settings | None = None) -> Iterator[Database]:
    """Give the database of these settings, or of the environment's, its tables checked; close it at the end.

    Raises:
        SettingsError: DATABASE_URL is missing or malformed.
        DatabaseUnavailable, NotMigrated: As `schema.check`.
    """
    config = config or settings.load()
    db = Database(config.database(), schema=config.database_schema)
    try:
        schema.check(db, config)
        yield db
    finally:
        db.close()


def print_json(row: Mapping[str, Any]) -> None:
    """Print one object on one line, times in ISO 8601 UTC."""
    click.echo(json.dumps({name: plain(value) for name, value in row.items()}))


def plain(value: object) -> object:
    """Return a value as JSON can hold it."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        case Enum():
            return value.value
        case bytes():
            return value.hex()
        case _:
            return value


def printable(text: str) -> str:
    """Return text from outside (a label, an external id) without control characters: it may reach a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
