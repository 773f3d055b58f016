"""`prune`: old rows that nothing needs."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

from worker import pruning, settings
from worker.cli.choosing import open_database
from worker.cli.printing import json_option, print_json

if TYPE_CHECKING:
    from worker.pruning import Pruned


def _days(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    kept = dict(pruning.DEFAULTS)
    for value in values:
        what, _, days = value.partition("=")
        if what not in pruning.LEAST or not re.fullmatch(r"[0-9]{1,5}", days):
            raise click.BadParameter("say ledger=DAYS, candidates=DAYS or events=DAYS.")
        if int(days) < pruning.LEAST[what]:
            raise click.BadParameter(f"{what} must be kept for {pruning.LEAST[what]} days at least: --help says why.")
        kept[what] = int(days)
    return kept


@click.command()
@click.option(
    "--keep",
    "days",
    metavar="WHAT=DAYS",
    multiple=True,
    callback=_days,
    help="Keep these for so many days instead; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Say how many rows would go, and delete none.")
@json_option
def prune(*, days: dict[str, int], dry_run: bool, as_json: bool) -> None:
    """Delete old rows, a thousand in a transaction; it may run at any time, beside the workers.

    \b
    ledger      120 days of attempts, 100 at least. A grant lives for 100 days
                unused, and `explain` tells its story from them. Counted back
                from a connection's last attempt: why one was given up stays
                known.
    candidates  35 days after Intuit has answered them, 30 at least: the escrow
                may bring a token up again for 30 days, and one that is known
                as tried is not presented twice. Those that are untried stay.
    events      90 days, 7 at least, for hosts that read them with
                events(after=...). Those that wait for delivery stay, unless
                EVENT_TASK is not set.

    Connections, their tokens and their holds are never pruned.
    """  # noqa: D301  # click wants the character itself
    config = settings.load()
    with open_database(config) as db:
        done = pruning.prune(
            pruning.Pruning(
                db=db,
                days=days,
                delivers=config.event_task is not None,
                dry_run=dry_run,
                progress=_show_progress if sys.stderr.isatty() else _say_nothing,
            )
        )
    if sys.stderr.isatty():
        click.echo(err=True)
    if as_json:
        print_json({"dry_run": dry_run, **done.rows})
    else:
        click.echo(f"{'Would delete' if dry_run else 'Deleted'} {_listed(done)}.")


def _listed(done: Pruned) -> str:
    rows = done.rows
    return f"{rows['ledger']} attempts, {rows['candidates']} candidates, {rows['events']} events"


def _show_progress(done: Pruned) -> None:
    click.echo(f"\r{_listed(done)} …", err=True, nl=False)


def _say_nothing(_: Pruned) -> None:
    pass
