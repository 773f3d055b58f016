"""`list`: the connections one after the other."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from qbo_refresh.status import Status
from worker.cli.choosing import open_database
from worker.cli.printing import is_on_a_screen, json_option, print_json, printable, say
from worker.moments import from_now
from worker.store import reading
from worker.store.reading import Filter, Listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.database import Database

_COUNT_TO = 10_000
_COLUMNS = ("id", "label", "external ids", "status", "holds", "next", "last", "access", "refresh", "hard limit")
_OF_WORDS = {"label", "external ids", "holds", "last"}
# What a narrow terminal does without, the largest first.
_EXPENDABLE = {"access": 4, "hard limit": 3, "last": 2, "holds": 1}


@click.command(name="list")
@click.option(
    "--status",
    type=click.Choice([str(status) for status in Status]),
    metavar="STATUS",
    help=f"Those with this status: {', '.join(Status)}.",
)
@click.option("--label", help="Those with this label.")
@click.option("--due", is_flag=True, help="Those that are due now.")
@click.option("--held", is_flag=True, help="Those whose syncs are paused.")
@click.option("--frozen", is_flag=True, help="Those that are frozen one by one or by label.")
@click.option("--second-writer", is_flag=True, help="Those whose grant somebody else was seen to refresh, too.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="At most so many; 0: all.")
@json_option
def list_(*, as_json: bool, limit: int, **filters: Any) -> None:
    """List connections: where each stands and when it is refreshed next. Neither realms nor tokens."""
    which = Filter(**filters)
    with open_database() as db:
        rows = reading.connections(db, which, limit=limit or None)
        if as_json:
            for row in rows:
                print_json(dataclasses.asdict(row))
        elif is_on_a_screen(limit):
            _print_some(db, which, list(rows), limit, table=True)
        elif limit:
            _print_some(db, which, list(rows), limit, table=False)
        else:
            _print_plainly(rows)


def _print_some(db: Database, which: Filter, rows: list[Listed], limit: int, *, table: bool) -> None:
    if not rows:
        click.echo("No connections.")
        return
    if table:
        _print_table(rows)
    else:
        _print_plainly(iter(rows))
    if len(rows) == limit:
        more = reading.count_after(db, which, after=rows[-1].id, at_most=_COUNT_TO)
        if more:
            click.echo(f"{'at least ' if more == _COUNT_TO else ''}{more:,} more (--limit 0 shows all).", err=not table)


def _print_table(rows: list[Listed]) -> None:
    # Here and not above: a program that reads `--json` should not pay for it.
    from worker.cli.table import Column, fitted  # noqa: PLC0415

    colours = {Status.ACTIVE: "green", Status.SUSPECT: "yellow", Status.NEEDS_REAUTH: "red"}
    cells = [_cells(row) for row in rows]
    columns = [Column(name, _EXPENDABLE.get(name, 0), folds=name in _OF_WORDS, right=name == "id") for name in _COLUMNS]
    layout = fitted(columns, cells)
    say(layout.header())
    for row, line in zip(rows, cells, strict=True):
        colour = colours.get(Status(row.status), "bright_black")
        say(layout.lines(line, {_COLUMNS.index("status"): colour}))
    say(layout.footer())


def _print_plainly(rows: Iterator[Listed]) -> None:
    click.echo("\t".join(_COLUMNS))
    while batch := list(islice(rows, 100)):
        click.echo("\n".join("\t".join(_cells(row)) for row in batch))


def _cells(row: Listed) -> tuple[str, ...]:
    last = "" if row.last_outcome is None else row.last_outcome + (f" ({row.last_reason})" if row.last_reason else "")
    return (
        str(row.id),
        printable(row.label or ""),
        printable(", ".join(row.external_ids)),
        row.status,
        ", ".join(row.holds),
        _next(row),
        last,
        from_now(row.access_expires_at, row.at),
        from_now(row.refresh_expires_at, row.at),
        from_now(row.hard_expires_at, row.at),
    )


def _next(row: Listed) -> str:
    if row.frozen:
        return "frozen"
    if row.leased:
        return "in doubt" if row.in_doubt else "under way"
    if row.due_at is None:
        return "never"
    return "now" if row.due_at <= row.at < row.due_at + timedelta(minutes=1) else from_now(row.due_at, row.at)
