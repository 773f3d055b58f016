"""What commands share: the `--json` option, how lines are printed, and how the database is opened."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from qbo_refresh.errors import QboRefreshError
from worker import schema, settings
from worker.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        case Mapping():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value


def printable(text: str) -> str:
    """Return text from outside (a label, an external id) without control characters: it may reach a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def choose_apps(apps: Sequence[T], *, client_id: str | None, environment: str | None) -> Sequence[T]:
    """Return the apps that `--app` and `--environment` name: all, if neither is given.

    Raises:
        UnknownApp: They name none.
    """
    chosen = [app for app in apps if client_id in (None, app.client_id) and environment in (None, app.environment)]
    if not chosen and (client_id or environment):
        raise UnknownApp("No app has this client id and environment: `qbo-refresh app` shows those there are.")
    return chosen


class UnknownApp(QboRefreshError):
    """No app is called that."""


class _App(Protocol):
    @property
    def client_id(self) -> str: ...
    @property
    def environment(self) -> str: ...


T = TypeVar("T", bound=_App)


def app_options(function: click.decorators.FC) -> click.decorators.FC:
    """Add `--app` and `--environment`, which choose among several apps."""
    for option in (
        click.option("--environment", type=click.Choice(["production", "sandbox"]), help="Only apps there."),
        click.option("--app", "client_id", metavar="CLIENT_ID", help="Only this app; all without it."),
    ):
        function = option(function)
    return function
