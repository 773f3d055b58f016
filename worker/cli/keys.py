"""`keys`: making keys, bringing in new ones, and deriving those that a host's processes may hold."""

from __future__ import annotations

import click

from qbo_refresh import sealing
from worker import settings
from worker.cli.help import Group
from worker.cli.printing import json_option, print_json
from worker.cli.rotation import rotate


@click.group(cls=Group)
def keys() -> None:
    """Make the keys that seal tokens, bring in new ones, and derive those for a host's processes."""


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


@keys.command()
@json_option
def client(*, as_json: bool) -> None:
    """Print CLIENT_KEYS, for the processes of a host that use the package qbo_refresh.

    They are derived from TOKEN_KEYS and open access tokens and realm ids, no refresh tokens. Print them anew when
    TOKEN_KEYS changes, and give them to the host before the worker seals with a new key.
    """
    derived = sealing.client_keys(settings.load().keys_text())
    if as_json:
        print_json({"CLIENT_KEYS": derived})
    else:
        click.echo(f"CLIENT_KEYS={derived}")
