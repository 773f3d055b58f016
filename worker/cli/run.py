"""`run`: worker, beat and Flower in one terminal, on servers of your own or, when asked for, embedded ones."""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qbo_refresh import sealing
from qbo_refresh.errors import QboRefreshError
from worker import queues, schema, settings
from worker.cli.choosing import open_database

if TYPE_CHECKING:
    from worker.embedded import Servers
    from worker.settings import Settings

_FLOWER_PORT = 5555
_MORE_PORTS = 20
_ROOT = Path(__file__).resolve().parents[2]


class _CannotRun(QboRefreshError):
    """Something that `run` needs is not there."""


@click.command()
@click.option("--embedded", is_flag=True, help="Start PostgreSQL and Valkey too, and keep their data in a directory.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=settings.EMBEDDED,
    show_default=True,
    help="Where the embedded servers keep their data and credentials.",
)
@click.option("--threads", "-c", type=click.IntRange(1, 100), default=20, show_default=True, help="Of the worker.")
@click.option("--no-flower", is_flag=True, help="Leave Flower out.")
def run(*, embedded: bool, directory: Path, threads: int, no_flower: bool) -> int:
    """Run worker, beat and Flower in this terminal. ^C ends them once what is in flight has finished.

    Flower listens on this machine alone and cannot change anything; its password is made anew unless
    FLOWER_BASIC_AUTH (user:password) is set.
    """
    if find_spec("honcho") is None:
        raise _CannotRun("`run` needs honcho: pip install 'qbo-refresh-worker[run]'.")
    with ExitStack() as stack:
        # Before any server is started.
        config = settings.load()
        settings.demand(config.apps, config.endpoint, *([] if no_flower else [config.flower_login]))
        started = _start_embedded(stack, directory) if embedded else None
        config = settings.load()
        settings.demand_all(config)
        with open_database(config):
            pass  # reached, and migrated
        return _run(started, threads=threads, flower=not no_flower)


def _start_embedded(stack: ExitStack, directory: Path) -> Servers:
    """Start the servers, point this process's environment at them, make keys and tables that are missing."""
    from worker import embedded  # noqa: PLC0415  # an extra, and Unix only

    configured = settings.load()
    for name, value in (("DATABASE_URL", configured.database_url), ("REDIS_URL", configured.redis_url)):
        if value is not None:
            raise _CannotRun(f"{name} is set, and --embedded would not use it: unset it, or leave out --embedded.")
    click.echo(f"Starting PostgreSQL and Valkey in {directory} …")
    try:
        servers = stack.enter_context(embedded.start(directory))
    except RuntimeError as error:
        raise _CannotRun(str(error)) from error
    os.environ |= {"QBO_DATABASE_URL": servers.database_url, "QBO_REDIS_URL": servers.redis_url}
    _write(directory / settings.CREDENTIALS, {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url})
    (directory / ".gitignore").write_text("*\n")  # it may well lie in a checkout
    click.echo(f"PostgreSQL {_without_password(servers.database_url)}")
    click.echo(f"Valkey     {_without_password(servers.redis_url)}")
    click.echo(
        f"Their passwords are in {directory / settings.CREDENTIALS}, with the ports, which are new at each start;"
        f" the data stay in {directory}."
    )
    _make_missing_keys(configured, directory / settings.KEYS)
    made = [directory / name for name in (settings.CREDENTIALS, settings.KEYS) if (directory / name).exists()]
    click.echo(f"For other commands: set -a; {'; '.join(f'. {shlex.quote(str(file))}' for file in made)}; set +a")
    settings.load.cache_clear()
    schema.upgrade()
    return servers


def _make_missing_keys(configured: Settings, file: Path) -> None:
    has_token_keys = configured.token_keys is not None or configured.token_keys_file is not None
    if has_token_keys and configured.lookup_key is not None:
        return
    if not file.exists():
        _write(file, {"TOKEN_KEYS": f"k1:{sealing.new_key()}", "LOOKUP_KEY": sealing.new_key()})
        click.echo(f"Made TOKEN_KEYS and LOOKUP_KEY in {file}: keep a copy, or all connections are lost with it.")
    kept = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    if not has_token_keys:
        os.environ["TOKEN_KEYS"] = kept["TOKEN_KEYS"]
    if configured.lookup_key is None:
        os.environ["LOOKUP_KEY"] = kept["LOOKUP_KEY"]


def _write(file: Path, values: dict[str, str]) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        output.writelines(f"{name}={value}\n" for name, value in values.items())


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    user, _, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}@{place}" if user else url


def _run(servers: Servers | None, *, threads: int, flower: bool) -> int:
    from worker.cli.terminal import Terminal  # noqa: PLC0415  # needs honcho

    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    celery = (sys.executable, "-m", "celery", "-A", "worker.app")
    if flower:
        environment |= _flower_settings()
    # After a kill -9 of this process, the servers' guardian ends the programs too.
    terminal = Terminal(environment, started=servers.watch if servers else lambda _pid: None)
    pool = ("-P", "threads", "-c", str(threads), "-E", "-Q", ",".join(queues.ALL))
    terminal.add("worker", (*celery, "worker", *pool))
    terminal.add("beat", (*celery, "beat"))
    if flower:
        terminal.add("flower", (*celery, "flower"))
    return terminal.run()


def _flower_settings() -> dict[str, str]:
    """Return Flower's variables: the password goes through the environment, for arguments are public."""
    if find_spec("flower") is None:
        raise _CannotRun("Flower is missing: pip install 'qbo-refresh-worker[flower]', or use --no-flower.")
    given = settings.load().flower_login()
    port = os.environ.get("FLOWER_PORT") or str(_free_port())
    login = given.reveal() if given else f"operator:{secrets.token_urlsafe(12)}"
    click.echo(f"Flower     http://127.0.0.1:{port}" + (" (FLOWER_BASIC_AUTH)" if given else f" (log in as {login})"))
    return {
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": port,
        "FLOWER_READ_ONLY": "true",
        "FLOWER_BASIC_AUTH": login,
    }


def _free_port() -> int:
    """Return Flower's usual port, or one soon after it."""
    for port in range(_FLOWER_PORT, _FLOWER_PORT + _MORE_PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise _CannotRun("No port is free for Flower: set FLOWER_PORT, or use --no-flower.")
