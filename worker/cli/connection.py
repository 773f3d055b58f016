"""`refresh`, `freeze`, `thaw`: one connection, a label, or all."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from qbo_refresh.errors import UnknownConnection
from qbo_refresh.status import Outcome
from worker import naming, runtime, settings
from worker import refresh as use_case
from worker.attempt import Freshness, Trigger
from worker.cli.common import json_option, open_database, print_json
from worker.store import fleet

if TYPE_CHECKING:
    from worker.database import Database
    from worker.settings import Settings

_LONGEST_REALM = 100
_IN_WORDS = {
    "unreadable": "its blob does not open with the keys in TOKEN_KEYS; `qbo-refresh doctor` tells which are missing",
}


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


@click.command()
@click.argument("connection")
@click.option(
    "--max-age",
    type=click.IntRange(0, 10**8),
    default=0,
    show_default=True,
    help="Not if an attempt began within so many seconds.",
)
@json_option
def refresh(*, connection: str, max_age: int, as_json: bool) -> int:
    """Refresh one CONNECTION now, in this process, by the same protocol as the workers.

    Exit status 1 if it was not refreshed.
    """
    here = runtime.build(settings.load())
    try:
        connection_id = resolve(here.db, here.settings, connection)
        freshness = Freshness(timedelta(seconds=max_age))
        result = use_case.refresh(here.refresher, connection_id, trigger=Trigger.CLI, freshness=freshness)
    finally:
        here.close()
    if as_json:
        print_json(result.as_dict())
    else:
        because = f" ({_IN_WORDS.get(result.reason, result.reason)})" if result.reason else ""
        rotated = {True: ", a new refresh token", False: ", the same refresh token", None: ""}[result.rotated]
        click.echo(f"Connection {connection_id}: {result.outcome}{because}{rotated}.")
    fresh = result.outcome is Outcome.SKIPPED and result.reason == "fresh"
    return 0 if result.outcome is Outcome.REFRESHED or fresh else 1


def chosen(function: click.decorators.FC) -> click.decorators.FC:
    """Add the arguments that say which connections, and `--json`."""
    for option in (
        json_option,
        click.option(
            "--share",
            type=click.IntRange(1, 100),
            metavar="PERCENT",
            help="So many in a hundred, of a --label or of all: always the same ones, and a larger share only adds.",
        ),
        click.option("--label", help="The connections with this label."),
        click.argument("connection", required=False),
    ):
        function = option(function)
    return function


def choice(
    db: Database, config: Settings, *, connection: str | None, label: str | None, share: int | None
) -> fleet.Choice:
    """Return which connections the arguments name.

    Raises:
        UnknownConnection: A name, or a label, of none.
    """
    if label is not None and not fleet.has_label(db, label):
        raise UnknownConnection(f"No connection has the label {label!r}: `qbo-refresh list` shows them.")
    return fleet.Choice(resolve(db, config, connection) if connection else None, label, share)


_everything = click.option("--all", "everything", is_flag=True, help="Everything, new connections too.")


@click.command()
@chosen
@_everything
@click.option("--reason", help="Why, for those who find it frozen (with --all).")
def freeze(
    *, connection: str | None, label: str | None, share: int | None, everything: bool, reason: str | None, as_json: bool
) -> None:
    """Stop refreshing one CONNECTION, those of a --label, a --share, or --all. Attempts under way finish."""
    if reason is not None and not everything:
        raise click.UsageError("--reason goes with --all.")
    _set_frozen(connection, label, share, everything=everything, frozen=True, reason=reason, as_json=as_json)


@click.command()
@chosen
@_everything
def thaw(*, connection: str | None, label: str | None, share: int | None, everything: bool, as_json: bool) -> None:
    """Refresh one CONNECTION, those of a --label, a --share, or --all again.

    --all lifts the general freeze alone: connections that were frozen one by one, by label or by share stay so.
    """
    _set_frozen(connection, label, share, everything=everything, frozen=False, reason=None, as_json=as_json)


def _set_frozen(
    connection: str | None,
    label: str | None,
    share: int | None,
    *,
    everything: bool,
    frozen: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    if sum((connection is not None, label is not None or share is not None, everything)) != 1:
        raise click.UsageError("Name one of these: a CONNECTION, --label LABEL and/or --share PERCENT, or --all.")
    config = settings.load()
    with open_database(config) as db:
        which = choice(db, config, connection=connection, label=label, share=share)
        if everything:
            changed = int(fleet.set_all_frozen(db, frozen=frozen, reason=reason))
        else:
            changed = fleet.set_frozen(db, which, frozen=frozen)
        running = fleet.leased_now(db, which) if frozen else 0
    word = "frozen" if frozen else "thawed"
    if as_json:
        print_json({"changed": changed, "frozen": frozen, "attempts_under_way": running})
    elif everything:
        click.echo(f"Everything is {word}." if changed else f"Everything was {word} already; nothing changed.")
    else:
        several = "connection" if changed == 1 else "connections"
        click.echo(f"{changed} {several} {word}." if changed else f"Nothing changed: {word} already.")
    if running and not as_json:
        click.echo(f"{running} attempts are under way and will finish.")
