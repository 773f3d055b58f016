"""`simulate`: the simulator of Intuit alone, for a host's own tests."""

from __future__ import annotations

import click


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> int:
    """Simulate Intuit's OAuth 2.0 server on this machine. `simulate --help` lists its options."""
    from intuit_simulator.__main__ import main  # noqa: PLC0415  # only here

    return main(arguments, prog="qbo-refresh simulate")
