"""Valkey, which speaks Redis, on a loopback port with a password."""

import json
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from worker.embedded.processes import Account
from worker.embedded.server import Server


class Valkey(Server):
    """A Valkey server that has its whole configuration from standard input: no file holds the password."""

    name = "Valkey"
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        program: Path,
        directory: Path,
        *,
        account: Account,
        keep_open: Sequence[int],
        durable: bool,
        password: str,
        users: Sequence[str],
    ) -> None:
        super().__init__(program, directory, account=account, keep_open=keep_open)
        self._durable = durable
        self._password = password
        self._users = users
        self._data = directory / "valkey"
        self._data.mkdir(exist_ok=True)
        account.own(self._data, 0o700)

    def command(self) -> list[str | Path]:
        """Return the arguments; "-" is standard input."""
        return [self.program, "-"]

    def feed(self) -> str:
        """Return the configuration. What was acknowledged is in the append-only file, so that it outlives a kill."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._password,
            "dir": json.dumps(str(self._data), ensure_ascii=False),  # its quoting is JSON's
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "always" if self._durable else "no",
        }
        return "".join(f"{line}\n" for line in (*(" ".join(each) for each in settings.items()), *self._users))

    def is_ready(self, pid: int) -> bool:
        """Ask it, with the password: another server on the port would refuse that."""
        del pid
        with socket.create_connection(("127.0.0.1", self.port or 0), timeout=1) as client:
            client.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
            with client.makefile("rb") as answers:
                return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]

    def url(self) -> str:
        """Return the address with its credentials."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"
