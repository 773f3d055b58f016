"""PgBouncer for tests, where the machine has it: there is no wheel of it."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from worker.embedded.directories import make_scratch
from worker.embedded.processes import Account, end, free_port, remove_tree, server_account

MISSING = "PgBouncer is missing: install the package pgbouncer (apt-get install pgbouncer, brew install pgbouncer)"


def find_pgbouncer() -> Path | None:
    """Return the program, also from where Debian puts it outside an ordinary user's PATH; None if there is none."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


@contextmanager
def pgbouncer(database_url: str, *, default_pool_size: int = 5, **settings: str | int) -> Iterator[str | None]:
    """Run PgBouncer in transaction mode before a server and yield its URL; yield None where there is none (`MISSING`).

    Args:
        settings: further lines of its configuration, over those made here.
    """
    program = find_pgbouncer()
    if program is None:
        yield None
        return
    account = server_account()
    directory = make_scratch(account)
    options = {"pool_mode": "transaction", "default_pool_size": default_pool_size, **settings}
    process = None
    try:
        process, port = _start(program, urlsplit(database_url), directory, account, options)
        yield urlsplit(database_url)._replace(netloc=_at(urlsplit(database_url), port)).geturl()
    finally:
        if process is not None:
            end(process, signal.SIGKILL)  # newer ones wait on SIGTERM until their clients have gone
        remove_tree(directory)


def _start(
    program: Path, database: SplitResult, directory: Path, account: Account, options: dict[str, str | int]
) -> tuple[subprocess.Popen[bytes], int]:
    users = directory / "users.txt"
    _write(users, f'"{database.username}" "{database.password}"\n', account)
    log = directory / "pgbouncer.log"
    for _ in range(5):
        port = free_port()
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "admin_users": database.username,
            **options,
        }
        configuration = directory / "pgbouncer.ini"
        _write(
            configuration,
            f"[databases]\n* = host={database.hostname} port={database.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items()),
            account,
        )
        process = account.spawn(
            [program, "--quiet", configuration], log=log, feed="", keep_open=(), if_orphaned=signal.SIGKILL
        )
        if _answers(process, port):
            return process, port
        end(process, signal.SIGKILL)
    raise RuntimeError(f"PgBouncer did not start:\n{log.read_text()[-1500:]}")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    give_up = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def _at(database: SplitResult, port: int) -> str:
    return f"{database.username}:{database.password}@127.0.0.1:{port}"


def _write(file: Path, text: str, account: Account) -> None:
    file.touch(0o600)
    account.own(file, 0o600)
    file.write_text(text)
