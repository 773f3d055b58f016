"""The side of the embedded servers that a program sees: where they are, and means to stop and start them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.embedded.binaries import find_postgres, find_valkey
from worker.embedded.errors import EmbeddedUnavailable

# Longer than the guardian gives to the watched process groups and to each server.
CLOSE_WITHIN_SECONDS = 60


def start(
    directory: Path | None = None,
    *,
    durable: bool = False,
    max_connections: int = 200,
    postgres: bool = True,
    valkey: bool = True,
    valkey_users: Sequence[str] = (),
) -> "Servers":
    """Start PostgreSQL and Valkey on free loopback ports, with a password, and return once both answer.

    They end with `close`, at the end of a `with` block, or when this process is gone, however it went.

    Args:
        directory: where data and password stay, always durably; None for throw-away servers in a temporary directory.
        durable: fsync for throw-away servers too. Without it they survive `kill_*`, but no loss of power.
        valkey_users: lines `user …` of Valkey's configuration, each with its password; there after every start.

    Raises:
        EmbeddedUnavailable: no servers for this machine, no wheel installed, or one did not start.
    """
    order = {
        "directory": None if directory is None else str(directory.absolute()),
        "durable": durable,
        "max_connections": max_connections,
        "postgres": str(find_postgres()) if postgres else None,
        "valkey": str(find_valkey()) if valkey else None,
        "valkey_users": list(valkey_users),
    }
    servers = Servers()
    try:
        servers.order(order)
    except BaseException:
        servers.close()
        raise
    return servers


class Servers:
    """Running servers; their addresses stay the same over every stop, kill and start."""

    def __init__(self) -> None:
        self._parent = os.getpid()
        self._about: dict[str, Any] = {}
        self._turn = threading.Lock()
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._guardian = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
                [sys.executable, "-m", "worker.embedded.guardian", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": _import_path()},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._answers = self._channel.makefile("r", encoding="utf-8")

    @property
    def database_url(self) -> str:
        """PostgreSQL's address with the credentials of its superuser."""
        return str(self._know("database_url"))

    @property
    def redis_url(self) -> str:
        """Valkey's address with its password."""
        return str(self._know("redis_url"))

    @property
    def directory(self) -> Path:
        """Where data and logs are."""
        return Path(self._know("directory"))

    @property
    def bin_directory(self) -> Path:
        """PostgreSQL's programs, among them psql and pg_dump."""
        return Path(self._know("bin_directory"))

    @property
    def postgres_pid(self) -> int:
        """The process id of PostgreSQL's first process; raise EmbeddedUnavailable while it is stopped."""
        return self._pid("postgres")

    @property
    def valkey_pid(self) -> int:
        """The process id of Valkey; raise EmbeddedUnavailable while it is stopped."""
        return self._pid("valkey")

    def watch(self, pid: int) -> None:
        """Have the process group of that number ended before the servers are."""
        self.order({"watch": pid})

    def start_postgres(self) -> None:
        """Start a stopped PostgreSQL with the data and the address that it had."""
        self.order({"server": "postgres", "do": "start"})

    def stop_postgres(self) -> None:
        """Shut PostgreSQL down: sessions are cut, nothing is lost."""
        self.order({"server": "postgres", "do": "stop"})

    def kill_postgres(self) -> None:
        """End PostgreSQL as a crash would, with kill -9."""
        self.order({"server": "postgres", "do": "kill"})

    def start_valkey(self) -> None:
        """Start a stopped Valkey with the data and the address that it had."""
        self.order({"server": "valkey", "do": "start"})

    def stop_valkey(self) -> None:
        """Shut Valkey down."""
        self.order({"server": "valkey", "do": "stop"})

    def kill_valkey(self) -> None:
        """End Valkey as a crash would, with kill -9."""
        self.order({"server": "valkey", "do": "kill"})

    def order(self, order: dict[str, Any]) -> None:
        """Have the guardian carry out one order; raise EmbeddedUnavailable with its words if it cannot."""
        with self._turn:
            answer = self._ask(order)
            if "error" in answer:
                raise EmbeddedUnavailable(answer["error"])
            self._about = answer

    def close(self) -> None:
        """End the watched processes and the servers, and delete what was thrown away with them."""
        if os.getpid() != self._parent:  # a forked child has no say over its parent's servers
            return
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        try:
            self._guardian.wait(CLOSE_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        self._answers.close()
        self._channel.close()
        self._clean_up_after_a_killed_guardian()

    def _clean_up_after_a_killed_guardian(self) -> None:
        if "scratch" in self._about:
            from worker.embedded.processes import remove_tree  # noqa: PLC0415 - imports what Windows lacks

            remove_tree(Path(self._about["scratch"]))

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            self._channel.sendall(json.dumps(order).encode() + b"\n")
            line = self._answers.readline()
        except (OSError, ValueError):
            line = ""
        if not line:
            raise EmbeddedUnavailable("The embedded servers have ended: their guardian does not answer.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _know(self, name: str) -> Any:
        if name not in self._about:
            raise EmbeddedUnavailable(f"These embedded servers have no {name.replace('_', ' ')}.")
        return self._about[name]

    def _pid(self, name: str) -> int:
        pid = self._know("pids").get(name)
        if pid is None:
            raise EmbeddedUnavailable(f"The embedded {name} is not running.")
        return int(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _import_path() -> str:
    # The guardian finds this package however this process has found it.
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
