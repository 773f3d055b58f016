"""`doctor`."""

from __future__ import annotations

import click

from worker import doctor as examination
from worker import settings
from worker.cli.printing import json_option, print_json, printable
from worker.doctor import State

_COLOURS = {State.OK: "green", State.WRONG: "red", State.SKIPPED: "yellow"}


@click.command()
@click.option("--offline", is_flag=True, help="Do not ask Intuit whether client id and secret are good.")
@json_option
def doctor(*, offline: bool, as_json: bool) -> int:
    """Check this installation: settings, database, Redis, keys, client secrets, clocks. Changes nothing.

    Exit status 1 if something is wrong. Three checks go over every row: a few seconds for a million.
    """
    wrong = 0
    for check in examination.examine(settings.load(), offline=offline):
        wrong += check.state is State.WRONG
        if as_json:
            print_json({"check": check.name, "state": check.state, "text": check.text})
        else:
            text = f"\n{'':10}".join(map(printable, check.text.split("\n")))
            click.echo(f"{click.style(f'{check.state:8}', fg=_COLOURS[check.state])}{check.name}: {text}")
    return 1 if wrong else 0
