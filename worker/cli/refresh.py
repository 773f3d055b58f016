"""`refresh`: one connection at once, in this process; many by the sweeps, brought forward."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from qbo_refresh.status import Outcome
from worker import refresh as use_case
from worker import runtime, settings
from worker.attempt import Freshness, Trigger
from worker.cli.choosing import check_label, one_or_label, open_database, resolve
from worker.cli.printing import counted, json_option, print_json
from worker.moments import long
from worker.store import forward

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.settings import Settings
    from worker.store.forward import Waiting, Wave

_IN_WORDS = {
    "unreadable": "its blob does not open with the keys in TOKEN_KEYS; `qbo-refresh doctor` tells which are missing",
}


@click.command()
@one_or_label
@click.option("--all", "everything", is_flag=True, help="All connections.")
@click.option("--never-refreshed", is_flag=True, help="Those not refreshed since their import, of a --label or of all.")
@click.option(
    "--max-age",
    type=click.IntRange(0, 10**8),
    default=0,
    show_default=True,
    help="Not if an attempt began within so many seconds (one CONNECTION).",
)
@click.option("--dry-run", is_flag=True, help="Say how many would be due, and change nothing (many).")
@click.option("--yes", is_flag=True, help="Do not ask (many).")
@json_option
def refresh(
    *,
    connection: str | None,
    label: str | None,
    everything: bool,
    never_refreshed: bool,
    max_age: int,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Refresh one CONNECTION now, or those of a --label, --never-refreshed or --all soon.

    One is refreshed in this process, by the same protocol as the workers; exit status 1 if it was not.

    Many are brought forward: the sweeps refresh them from now on, as many a minute as REFRESH_PER_MINUTE leaves beside
    what is due anyway, each once. Those that are frozen, pause after a failure, or are not active stay as they are.
    """
    many = label is not None or everything or never_refreshed
    if (connection is not None) == many or (everything and label is not None):
        raise click.UsageError("Name one of these: a CONNECTION, --label LABEL and/or --never-refreshed, or --all.")
    if connection is not None:
        if dry_run or yes:
            raise click.UsageError("--dry-run and --yes go with many connections.")
        return _refresh_one(connection, max_age=max_age, as_json=as_json)
    if max_age:
        raise click.UsageError("--max-age goes with one CONNECTION.")
    _bring_forward(settings.load(), forward.Waiting(label, never_refreshed), dry_run=dry_run, yes=yes, as_json=as_json)
    return 0


def _refresh_one(connection: str, *, max_age: int, as_json: bool) -> int:
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
        if result.outcome is Outcome.SKIPPED:  # its reason may be that of an attempt before, after which it rests
            click.echo(f"`qbo-refresh explain {connection_id}` tells more, and when it goes on.")
    fresh = result.outcome is Outcome.SKIPPED and result.reason == "fresh"
    return 0 if result.outcome is Outcome.REFRESHED or fresh else 1


def _bring_forward(config: Settings, which: Waiting, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    rate = config.refresh_per_minute
    with open_database(config) as db:
        if which.label is not None:
            check_label(db, which.label)
        waves = forward.plan(db, which, per_minute=rate)
        number = sum(len(wave.ids) for wave in waves)
        if not as_json and not number:
            click.echo("Nothing changed: none of them is planned for later.")
        elif not as_json and not yes:
            click.echo(f"{counted(number, 'connection')} would be due within {_lasts(waves)}.")
        if number and not dry_run:
            if not yes:
                click.confirm("Bring them forward?", abort=True, err=as_json)
                waves = forward.plan(db, which, per_minute=rate)
            number = forward.bring(db, which, waves, progress=_progress(number))
    if as_json:
        within_s = round(_within(waves).total_seconds())
        print_json({"connections": number, "within_seconds": within_s, "dry_run": dry_run})
    elif number and not dry_run:
        are = "connection is" if number == 1 else "connections are"
        click.echo(f"{number:,} {are} due within {_lasts(waves)} now: the sweeps refresh {rate:,} a minute.")


def _within(waves: Sequence[Wave]) -> timedelta:
    """Return how long the sweeps take for them, beside what is due anyway."""
    return timedelta(minutes=waves[-1].minute + 1 if waves else 0)


def _lasts(waves: Sequence[Wave]) -> str:
    within = _within(waves)
    return "1 min" if within == timedelta(minutes=1) else long(within)


def _progress(total: int) -> Callable[[int], None]:
    def show(done: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{done:,} of {total:,}", err=True, nl=done >= total)

    return show
