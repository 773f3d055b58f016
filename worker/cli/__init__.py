"""The command line, `qbo-refresh`. Exit status: 0 done, 1 found wrong, 2 used wrongly or not able to."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

import click
from sqlalchemy.exc import DBAPIError

from qbo_refresh.errors import QboRefreshError
from worker import reporting, settings
from worker.cli.help import CONNECTION, Group, explained

# Each command is imported when it is used: `--help` and `refresh` need neither the demo nor the servers.
COMMANDS = {
    "demo": "worker.cli.demo:demo",
    "run": "worker.cli.run:run",
    "migrate": "worker.cli.database:migrate",
    "doctor": "worker.cli.doctor:doctor",
    "adopt-database": "worker.cli.database:adopt_database",
    "list": "worker.cli.fleet:list_",
    "status": "worker.cli.status:status",
    "explain": "worker.cli.explain:explain",
    "dry-run": "worker.cli.dry_run:dry_run",
    "refresh": "worker.cli.refresh:refresh",
    "connect": "worker.cli.connect:connect",
    "disconnect": "worker.cli.endings:disconnect",
    "delete": "worker.cli.endings:delete",
    "freeze": "worker.cli.freezing:freeze",
    "thaw": "worker.cli.freezing:thaw",
    "take-over": "worker.cli.cutover:take_over",
    "hand-back": "worker.cli.cutover:hand_back",
    "hold": "worker.cli.holds:hold",
    "resume": "worker.cli.holds:resume",
    "events": "worker.cli.events:events",
    "prune": "worker.cli.prune:prune",
    "import": "worker.cli.transfer:import_",
    "export": "worker.cli.transfer:export",
    "guard": "worker.cli.guard:guard",
    "app": "worker.cli.app:app",
    "keys": "worker.cli.keys:keys",
    "roles": "worker.cli.roles:roles",
    "simulate": "worker.cli.simulate:simulate",
}


class _Lazy(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        return explained(getattr(importlib.import_module(module), name))


@click.group(
    cls=_Lazy, epilog=CONNECTION, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="qbo-refresh-worker", prog_name="qbo-refresh")
def cli() -> None:
    """Keep QuickBooks Online connections alive.

    Settings come from the environment and from a .env file.
    """
    with contextlib.suppress(QboRefreshError):  # said by the command, if it needs the settings at all
        reporting.start(settings.load())


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its status."""
    try:
        status: Any = cli.main(arguments, prog_name="qbo-refresh", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code if error.exit_code != 1 else 2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except QboRefreshError as error:
        click.echo(f"qbo-refresh: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"qbo-refresh: {error.filename or 'The output'}: {error.strerror}.", err=True)
        sys.exit(2)
    except UnicodeEncodeError as error:
        # A byte of the command line that is no UTF-8 gets as far as here, or what a terminal of another encoding shows.
        click.echo(f"qbo-refresh: A text that was given, or is to be shown, is none in {error.encoding}.", err=True)
        sys.exit(2)
    except DBAPIError as error:
        # The driver's text may quote values; its class and code do not.
        state = getattr(error.orig, "sqlstate", None)
        click.echo(f"qbo-refresh: PostgreSQL refused this ({type(error.orig).__name__}, SQLSTATE {state}).", err=True)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)
