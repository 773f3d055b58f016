"""`freeze`, `thaw`: one connection, a label, a share, or all."""

from __future__ import annotations

import click

from worker import settings
from worker.cli.choosing import choice, one_label_or_share, open_database
from worker.cli.printing import counted, json_option, print_json
from worker.store import fleet

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
