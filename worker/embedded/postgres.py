"""PostgreSQL on a loopback port, with a password and without a socket file."""

import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from worker.embedded.errors import EmbeddedUnavailable
from worker.embedded.processes import Account
from worker.embedded.server import Server

USER = "qbo"
DATABASE = "postgres"
# A commit still reaches the kernel before it is acknowledged, so that even these survive a killed server, if not a
# machine that loses power.
THROW_AWAY = {"fsync": "off", "full_page_writes": "off"}
# Stretching makes guesses of a password that a person chose cost more. Ours are random, and 4,096 rounds on either side
# are half of what a new connection costs (5.6 ms, 3.1 ms without).
_UNSTRETCHED = {"scram_iterations": "1"}


def clusters(directory: Path) -> list[str]:
    """Return the names of the complete data directories in `directory`, whatever their major version."""
    return sorted(path.name for path in directory.glob("postgres-*") if path.name.removeprefix("postgres-").isdigit())


class Postgres(Server):
    """A PostgreSQL cluster whose data directory carries the major version in its name."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # the fast shutdown: sessions are cut, nothing is lost

    def __init__(
        self,
        programs: Path,
        directory: Path,
        *,
        account: Account,
        keep_open: Sequence[int],
        durable: bool,
        max_connections: int,
    ) -> None:
        super().__init__(programs / "postgres", directory, account=account, keep_open=keep_open)
        self.programs = programs
        self._durable = durable
        self._max_connections = max_connections
        self._data = directory / f"postgres-{_major(account.version(self.program))}"

    @property
    def is_new(self) -> bool:
        """Whether there is no cluster yet; raise EmbeddedUnavailable over one of another major version."""
        there = clusters(self._data.parent)
        if there and self._data.name not in there:
            raise EmbeddedUnavailable(
                f"{self._data.parent} holds {' and '.join(there)}, the installed package needs {self._data.name}: "
                "take the data over with pg_dump, or choose another directory."
            )
        return not there

    def create(self, password: str, *, scratch: Path) -> None:
        """Make the cluster with its one superuser, completely or not at all.

        Args:
            scratch: a directory of ours that the account can enter; the password lies there for a moment.
        """
        unfinished = self._data.with_name(f"{self._data.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        self.account.own(unfinished, 0o700)
        password_file = scratch / "password"
        password_file.touch(0o600)
        try:
            self.account.own(password_file, 0o600)
            password_file.write_text(password)
            done = self.account.run(self._initdb(unfinished, password_file))
        finally:
            password_file.unlink()
        if done.returncode:
            raise EmbeddedUnavailable(f"initdb failed:\n{done.stdout}{done.stderr}".strip())
        unfinished.rename(self._data)

    def _initdb(self, data: Path, password_file: Path) -> list[str | Path]:
        command: list[str | Path] = [self.programs / "initdb", "-D", data, "-U", USER, "--pwfile", password_file]
        command += ["-A", "scram-sha-256", "-E", "UTF8"]
        command += ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self._durable:
            return command
        return [*command, "--no-sync", *(f"--set={name}={value}" for name, value in _UNSTRETCHED.items())]

    def command(self) -> list[str | Path]:
        """Return the arguments."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self._max_connections),
            "shared_buffers": "64MB",
        }
        if not self._durable:
            options |= THROW_AWAY | _UNSTRETCHED
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [self.program, "-D", self._data, *settings]

    def is_ready(self, pid: int) -> bool:
        """Read the state that PostgreSQL itself notes for pg_ctl: the eighth line of postmaster.pid."""
        lines = (self._data / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and int(lines[0]) == pid and lines[7].strip() == "ready"  # noqa: PLR2004

    def url(self, password: str) -> str:
        """Return the address with its credentials."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{DATABASE}"


def _major(version: str) -> str:
    found = re.search(r"\) (\d+)", version)
    if found is None:
        raise EmbeddedUnavailable(f"The embedded PostgreSQL says of itself {version!r}, which names no version.")
    return found[1]
