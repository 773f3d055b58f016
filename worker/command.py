"""The program `qbo-refresh`: the command line, or one sentence where the service's packages are not installed."""

from __future__ import annotations

import sys

_OURS = ("worker", "qbo_refresh", "intuit_simulator")


def main() -> None:
    """Run the command line; exit with status 2 if this is a host's environment, which has not what it needs."""
    try:
        from worker import cli  # noqa: PLC0415  # it is not there in a host's environment
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        sys.exit(_not_installed(error.name))
    except KeyboardInterrupt:  # loading takes half a second
        sys.exit(_stopped())
    cli.main()


def _stopped() -> int:
    print("Stopped.", file=sys.stderr)
    return 130


def _not_installed(name: str) -> int:
    print(
        f"qbo-refresh: {name} is not installed here: this environment has what a host imports, and not the service."
        " Install qbo-refresh-worker[worker] where the worker runs, and use qbo-refresh there.",
        file=sys.stderr,
    )
    return 2
