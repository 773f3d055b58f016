"""What a command works on: the database, and the connections or apps that its arguments name."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from qbo_refresh.errors import QboRefreshError, UnknownConnection
from worker import naming, schema, settings
from worker.database import Database
from worker.store import fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from click.decorators import FC

    from worker.settings import Settings

_LONGEST_REALM = 100


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


def _together(*options: Callable[[Any], Any]) -> Callable[[FC], FC]:
    def add(function: FC) -> FC:
        for option in reversed(options):
            function = option(function)
        return function

    return add


_NAMED = (
    click.argument("connection", required=False),
    click.option("--label", help="The connections with this label."),
)
one_or_label = _together(*_NAMED)
one_label_or_share = _together(
    *_NAMED,
    click.option(
        "--share",
        type=click.IntRange(1, 100),
        metavar="PERCENT",
        help="So many in a hundred, of a --label or of all: always the same ones, and a larger share only adds.",
    ),
)
app_options = _together(
    click.option("--app", "client_id", metavar="CLIENT_ID", help="Only this app; all without it."),
    click.option(
        "--environment",
        type=click.Choice(["production", "sandbox"]),
        metavar="ENVIRONMENT",
        help="Only apps there: production or sandbox.",
    ),
)


def resolve(db: Database, config: Settings, name: str) -> int:
    """Return the id of the connection that an argument names; `realm:-` reads the realm from standard input.

    Raises:
        UnknownConnection: It names none.
    """
    if name == "realm:-":
        name = "realm:" + sys.stdin.readline(_LONGEST_REALM).strip()
        if name == "realm:":
            raise UnknownConnection("Standard input is empty: `realm:-` reads a realm id from it.")
    return naming.find(db, name, lookup=config.lookup)


def check_label(db: Database, label: str) -> None:
    """Return if a connection has this label.

    Raises:
        UnknownConnection: None has.
    """
    if not fleet.has_label(db, label):
        raise UnknownConnection(f"No connection has the label {label!r}: `qbo-refresh list` shows them.")


def choice(
    db: Database, config: Settings, *, connection: str | None, label: str | None, share: int | None
) -> fleet.Choice:
    """Return which connections the arguments name.

    Raises:
        UnknownConnection: A name, or a label, of none.
    """
    if label is not None:
        check_label(db, label)
    return fleet.Choice(resolve(db, config, connection) if connection else None, label, share)


class UnknownApp(QboRefreshError):
    """No app is called that."""


class _App(Protocol):
    @property
    def client_id(self) -> str: ...
    @property
    def environment(self) -> str: ...


T = TypeVar("T", bound=_App)


def choose_apps(apps: Sequence[T], *, client_id: str | None, environment: str | None) -> Sequence[T]:
    """Return the apps that `--app` and `--environment` name: all, if neither is given.

    Raises:
        UnknownApp: They name none.
    """
    chosen = [app for app in apps if client_id in (None, app.client_id) and environment in (None, app.environment)]
    if not chosen and (client_id or environment):
        raise UnknownApp("No app has this client id and environment: `qbo-refresh app` shows those there are.")
    return chosen
