"""`hold`, `resume`: the syncs of one connection, or of a label, paused by an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker import holding, settings
from worker.cli.choosing import check_label, one_or_label, open_database, resolve
from worker.cli.printing import counted, json_option, print_json
from worker.store import fleet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.database import Database
    from worker.settings import Settings


@click.command()
@one_or_label
@click.option("--note", help="Why, for those who find it held.")
@json_option
def hold(*, connection: str | None, label: str | None, note: str | None, as_json: bool) -> None:
    """Pause the syncs of one CONNECTION, or of those of a --label, until they are resumed.

    Refreshes go on (`freeze` stops those). The host is told by sync.paused, unless it has been told already.
    """
    config = settings.load()
    with open_database(config) as db:
        held = holding.hold(db, _named(db, config, connection, label), note=note)
    if as_json:
        print_json({"changed": held.changed, "hold": "operator", "stands": True})
    else:
        done = f"The syncs of {counted(held.changed, 'connection')} are held."
        click.echo(done if held.changed else "Nothing changed: held already.")


@click.command()
@one_or_label
@json_option
def resume(*, connection: str | None, label: str | None, as_json: bool) -> None:
    """Lift the operator's hold from one CONNECTION, or from those of a --label, and no other hold.

    The host is told by sync.resumed once no reason that it was told about is left.
    """
    config = settings.load()
    with open_database(config) as db:
        held = holding.resume(db, _named(db, config, connection, label))
    if as_json:
        print_json({"changed": held.changed, "hold": "operator", "stands": False, "still_held": held.still_held})
        return
    lifted = f"Lifted from {counted(held.changed, 'connection')}." if held.changed else "Nothing changed: no such hold."
    click.echo(lifted)
    if held.still_held:
        others = counted(held.still_held, "connection")
        click.echo(f"The syncs of {others} are still held, for another reason (`qbo-refresh list --held`).")


def _named(db: Database, config: Settings, connection: str | None, label: str | None) -> Iterable[int]:
    if (connection is None) == (label is None):
        raise click.UsageError("Name one of these: a CONNECTION, or --label LABEL.")
    if connection is not None:
        return [resolve(db, config, connection)]
    check_label(db, str(label))
    return fleet.ids_with_label(db, str(label))
