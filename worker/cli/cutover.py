"""`take-over` and `hand-back`: whose a frozen connection is while an old refresher runs beside the worker."""

from __future__ import annotations

import click

from worker import settings
from worker.cli.choosing import choice, one_label_or_share, open_database
from worker.cli.printing import counted, json_option, listed, print_json
from worker.store import fleet


def _check(connection: str | None, label: str | None, share: int | None) -> None:
    if (connection is not None) == (label is not None or share is not None):
        raise click.UsageError("Name one of these: a CONNECTION, or --label LABEL and/or --share PERCENT.")


@click.command("take-over")
@one_label_or_share
@json_option
def take_over(*, connection: str | None, label: str | None, share: int | None, as_json: bool) -> None:
    """Tell an old refresher to leave one CONNECTION, those of a --label or a --share alone; they stay frozen.

    It reads `taken_over` in the view qbo.connection_status before each refresh. Wait until what it has under way is
    over, bring its last word with `import --update`, and only then thaw: docs/cutover.md.
    """
    _check(connection, label, share)
    config = settings.load()
    with open_database(config) as db:
        changed = fleet.take_over(db, choice(db, config, connection=connection, label=label, share=share))
    if as_json:
        print_json({"changed": changed})
    else:
        click.echo(
            f"{counted(changed, 'connection')} taken over." if changed else "Nothing changed: taken over already."
        )


@click.command("hand-back")
@one_label_or_share
@json_option
def hand_back(*, connection: str | None, label: str | None, share: int | None, as_json: bool) -> int:
    """Let an old refresher have one CONNECTION, those of a --label or a --share again.

    Only after it holds the tokens that `export --freeze` wrote: from now on it may present them. A connection that is
    not frozen, or has an attempt under way or in doubt, stays the worker's; exit status 1 if one did.
    """
    _check(connection, label, share)
    config = settings.load()
    with open_database(config) as db:
        changed, stay = fleet.hand_back(db, choice(db, config, connection=connection, label=label, share=share))
    if as_json:
        print_json({"changed": changed, "stay": stay})
    else:
        click.echo(f"{counted(changed, 'connection')} handed back." if changed else "Nothing changed.")
        if stay:
            several = counted(len(stay), "connection")
            click.echo(f"{several} stay the worker's ({listed(stay)}): not frozen, or in doubt. Export them first.")
    return 1 if stay else 0
