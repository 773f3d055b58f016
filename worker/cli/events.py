"""`events`: what the outbox holds, what of it has been delivered, and sending it again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from qbo_refresh.status import Event
from worker import settings
from worker.cli.choosing import open_database, resolve
from worker.cli.help import Group
from worker.cli.printing import counted, is_on_a_screen, json_option, plain, print_json, printable, say
from worker.delivery import as_message
from worker.moments import exactly
from worker.store import outbox
from worker.store.outbox import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from typing import TypeAlias

    from worker.database import Database
    from worker.settings import Settings
    from worker.store.outbox import Stored

    _Show: TypeAlias = Callable[[Iterable[Stored]], int]
    """Prints events and returns the id of the last, 0 if there is none."""

_COLUMNS = ("id", "at", "type", "connection", "sequence", "names", "payload", "delivered")
_ASK_EVERY_S = 1.0
# A transaction takes its event's id before it commits: an event may appear below one that has been shown.
_LATE = 1000  # ids


@click.group(cls=Group, invoke_without_command=True)
@click.option("--after", type=click.IntRange(0), help="Those after the event with this id.")
@click.option("--connection", metavar="CONNECTION", help="Those of one connection.")
@click.option(
    "--type",
    "event_type",
    type=click.Choice([str(event) for event in Event]),
    metavar="TYPE",
    help=f"Those of one type: {', '.join(Event)}.",
)
@click.option("--undelivered", is_flag=True, help="Those that wait for delivery.")
@click.option("--follow", is_flag=True, help="Go on, with each new one as it comes.")
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="At most so many; 0: all.")
@json_option
@click.pass_context
def events(
    ctx: click.Context,
    *,
    after: int | None,
    connection: str | None,
    event_type: str | None,
    undelivered: bool,
    follow: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show events, the oldest first: the newest 50, or the first 50 after an id.

    With --json each is printed as the host's task is given it, with when and to which task it was delivered.
    """
    if ctx.invoked_subcommand is not None:
        return
    config = settings.load()
    with open_database(config) as db:
        wanted = Wanted(
            after, resolve(db, config, connection) if connection else None, event_type, undelivered=undelivered
        )
        found = _some(db, wanted, limit)
        if as_json:
            show = _show_json(config)
        elif is_on_a_screen(limit):
            found = list(found)
            show = _show_table(found)
        else:
            show = _show_tabs()
        last = show(found)
        if follow:
            _follow(db, wanted, show, after=max(last, wanted.after or 0))


@events.command()
@click.argument("event_ids", metavar="ID...", nargs=-1, required=True, type=click.IntRange(1))
@json_option
def resend(*, event_ids: tuple[int, ...], as_json: bool) -> int:
    """Have the workers deliver these events once more. Each keeps its id, so that the host can tell.

    Exit status 1 if one of them does not exist.
    """
    config = settings.load()
    if config.event_target() is None:
        raise settings.SettingsError("EVENT_TASK is not set: events are delivered to nobody, the host polls for them.")
    with open_database(config) as db:
        found = outbox.send_again(db, event_ids)
    missing = sorted(set(event_ids) - set(found))
    if as_json:
        print_json({"resent": found, "unknown": missing})
    else:
        click.echo(f"{counted(len(found), 'event')} {'is' if len(found) == 1 else 'are'} sent again by the workers.")
        if missing:
            click.echo(f"There is no event {', '.join(map(str, missing))}: it may have been pruned.")
    return 1 if missing else 0


def _some(db: Database, wanted: Wanted, limit: int) -> Iterable[Stored]:
    if not limit:
        return outbox.read_all(db, wanted)
    return outbox.read(db, wanted, limit=limit, newest=wanted.after is None)


def _follow(db: Database, wanted: Wanted, show: _Show, *, after: int) -> None:
    shown = {event.id for event in _recent(db, wanted, after) if event.id <= after}
    while True:
        time.sleep(_ASK_EVERY_S)
        new = [event for event in _recent(db, wanted, after) if event.id not in shown]
        after = max(after, show(new))
        shown = {each for each in shown if each > after - _LATE} | {event.id for event in new}


def _recent(db: Database, wanted: Wanted, after: int) -> Iterator[Stored]:
    floor = max(0, after - _LATE)
    return outbox.read_all(db, Wanted(floor, wanted.connection_id, wanted.type, wanted.undelivered))


def _showing(show_one: Callable[[Stored], None]) -> _Show:
    def show(found: Iterable[Stored]) -> int:
        last = 0
        for event in found:
            show_one(event)
            last = event.id
        return last

    return show


def _show_json(config: Settings) -> _Show:
    return _showing(lambda event: print_json(_as_json(event, config)))


def _show_tabs() -> _Show:
    click.echo("\t".join(_COLUMNS))
    return _showing(lambda event: click.echo("\t".join(_cells(event, long=True))))


def _show_table(first: Iterable[Stored]) -> _Show:
    # Here and not above: a program that reads `--json` should not pay for it.
    from worker.cli.table import Column, fitted  # noqa: PLC0415

    columns = [
        Column("id", least=6, right=True),
        Column("at", least=19),
        Column("type", least=max(map(len, Event))),
        Column("connection", right=True),
        Column("sequence", 3, right=True),
        Column("names", 1, folds=True, least=12),
        Column("payload", 2, folds=True, least=12),
        Column("delivered", folds=True, least=10),
    ]
    layout = fitted(columns, [_cells(event, long=False) for event in first])
    say([*layout.footer(), *layout.header()])
    return _showing(lambda event: say(layout.lines(_cells(event, long=False))))


def _as_json(event: Stored, config: Settings) -> dict[str, Any]:
    message: dict[str, Any] = dict(as_message(event, config.reconnect_url))
    return message | {"delivered_at": event.delivered_at, "delivered_to": event.delivered_to}


def _cells(event: Stored, *, long: bool) -> tuple[str, ...]:
    """Return the columns, with moments as programs or as people read them."""
    moment = plain if long else exactly
    names = [f"external:{each}" for each in event.external_ids] + ([event.label] if event.label else [])
    return (
        str(event.id),
        str(moment(event.created_at)),
        event.type,
        "" if event.connection_id is None else str(event.connection_id),
        "" if event.sequence is None else str(event.sequence),
        printable(", ".join(names)),
        printable(", ".join(f"{name} {value}" for name, value in event.payload.items())),
        _delivered(event, moment),
    )


def _delivered(event: Stored, moment: Callable[[datetime], object]) -> str:
    if event.delivered_at is None:
        return "waits"
    if event.delivered_to is None:
        return "left to those who poll"
    return f"{moment(event.delivered_at)} to {printable(event.delivered_to)}"
