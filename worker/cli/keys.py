"""`keys`: making keys, and bringing in new ones."""

from __future__ import annotations

import click

from qbo_refresh import sealing
from worker import settings
from worker.cli.common import json_option, print_json
from worker.cli.rotation import rotate


@click.group()
def keys() -> None:
    """Make the keys that seal tokens, and bring in new ones."""


keys.add_command(rotate)


@keys.command()
@click.option("--id", "key_id", default="k1", show_default=True, help="The new key's id, written into each blob.")
@json_option
def new(*, key_id: str, as_json: bool) -> None:
    """Print a new TOKEN_KEYS and LOOKUP_KEY, for a .env file or a secret store.

    LOOKUP_KEY never changes: where one is configured already, no other is made. To bring in a further key, put the new
    one before the old ones in TOKEN_KEYS, with a comma between, keep those, and run `qbo-refresh keys rotate`.

    Lose TOKEN_KEYS and every customer must reconnect: keep a copy apart from the database.
    """
    if not sealing.KEY_ID.fullmatch(key_id):
        raise click.BadParameter("use small letters, digits, dots, dashes: k2, 2027-01.", param_hint="--id")
    made = {"TOKEN_KEYS": f"{key_id}:{sealing.new_key()}"}
    if settings.load().lookup_key is None:
        made["LOOKUP_KEY"] = sealing.new_key()
    if as_json:
        print_json(made)
    else:
        for name, value in made.items():
            click.echo(f"{name}={value}")
