"""`refresh`, `freeze`, `thaw`: one connection, a label, or all."""

from __future__ import annotations

from datetime import timedelta

import click

from qbo_refresh.status import Outcome
from worker import refresh as use_case
from worker import runtime, settings
from worker.attempt import Freshness, Trigger
from worker.cli.choosing import choice, one_label_or_share, open_database, resolve
from worker.cli.printing import counted, json_option, print_json
from worker.store import fleet

_IN_WORDS = {
    "unreadable": "its blob does not open with the keys in TOKEN_KEYS; `qbo-refresh doctor` tells which are missing",
}


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


_everything = click.option("--all", "everything", is_flag=True, help="Everything, new connections too.")


@click.command()
@one_label_or_share
@_everything
@click.option("--reason", help="Why, for those who find it frozen (with --all).")
@json_option
def freeze(
    *, connection: str | None, label: str | None, share: int | None, everything: bool, reason: str | None, as_json: bool
) -> None:
    """Stop refreshing one CONNECTION, those of a --label, a --share, or --all. Attempts under way finish."""
    if reason is not None and not everything:
        raise click.UsageError("--reason goes with --all.")
    _set_frozen(connection, label, share, everything=everything, frozen=True, reason=reason, as_json=as_json)


@click.command()
@one_label_or_share
@_everything
@json_option
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
        click.echo(f"{counted(changed, 'connection')} {word}." if changed else f"Nothing changed: {word} already.")
    if running and not as_json:
        click.echo(f"{running} attempts are under way and will finish.")
