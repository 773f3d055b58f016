"""The process between us and the servers: it starts them, obeys us, and ends them when we are gone, however we went.

Run as `python -m worker.embedded.guardian FD`; FD is its end of a socket pair that carries one JSON object a line.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.embedded.binaries import copy_postgres, copy_valkey, usable
from worker.embedded.channel import Parent
from worker.embedded.directories import hold, make_scratch, new_password, stored_password
from worker.embedded.errors import EmbeddedUnavailable
from worker.embedded.postgres import Postgres
from worker.embedded.processes import adopt_orphans, end_groups, is_running, remove_tree, server_account
from worker.embedded.valkey import Valkey

if TYPE_CHECKING:
    from worker.embedded.server import Server


class Guardian:
    """The servers, their directories, and the process groups that are ended before them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.groups: set[int] = set()
        self.servers: dict[str, Server] = {}
        self._order = order
        self._account = server_account()
        self._scratch = make_scratch(self._account)
        self._persistent = order["directory"] is not None
        self.directory = Path(order["directory"]) if self._persistent else self._scratch
        self._about: dict[str, Any] = {"directory": str(self.directory), "scratch": str(self._scratch)}

    def start(self) -> None:
        """Start what was ordered."""
        keep_open = [hold(self.directory, self._account)] if self._persistent else []
        durable = self._persistent or bool(self._order["durable"])
        password = stored_password(self.directory) if self._persistent else new_password()
        if self._order["postgres"]:
            postgres = Postgres(
                self._postgres_programs(Path(self._order["postgres"])),
                self.directory,
                account=self._account,
                keep_open=keep_open,
                durable=durable,
                max_connections=self._order["max_connections"],
            )
            self.servers["postgres"] = postgres
            if postgres.is_new:
                postgres.create(password, scratch=self._scratch)
            postgres.start()
            self._about |= {"database_url": postgres.url(password), "bin_directory": str(postgres.programs)}
        if self._order["valkey"]:
            valkey = Valkey(
                self._valkey_program(Path(self._order["valkey"])),
                self.directory,
                account=self._account,
                keep_open=keep_open,
                durable=durable,
                password=password,
                users=self._order["valkey_users"],
            )
            self.servers["valkey"] = valkey
            valkey.start()
            self._about |= {"redis_url": valkey.url()}

    def about(self) -> dict[str, Any]:
        """Return what the parent may know of the servers as they are now."""
        return self._about | {"pids": {name: server.pid for name, server in self.servers.items()}}

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one order of the running parent."""
        match order:
            case {"watch": int(group)}:
                self.groups.add(group)
            case {"server": str(name), "do": "start" | "stop" | "kill" as action} if name in self.servers:
                getattr(self.servers[name], action)()
            case _:
                raise EmbeddedUnavailable(f"These embedded servers cannot do this: {order}")

    def tidy(self) -> None:
        """Reap what a killed server left behind, and forget groups that are gone before another gets their number."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        self.groups = {group for group in self.groups if is_running(group)}

    def end(self) -> None:
        """End everything: the servers' clients first, then the servers, then what was only for them."""
        end_groups(tuple(self.groups))
        for server in self.servers.values():
            if isinstance(server, Postgres) and not self._persistent:
                server.end(signal.SIGQUIT)
            else:
                server.stop()
        self.tidy()
        remove_tree(self._scratch)

    def _postgres_programs(self, programs: Path) -> Path:
        def copy() -> Path:
            return copy_postgres(programs, self._scratch / "bin") / "postgres"

        return usable(programs / "postgres", copy, self._account.version).parent

    def _valkey_program(self, program: Path) -> Path:
        return usable(program, lambda: copy_valkey(program, self._scratch / "bin"), self._account.version)


def serve(parent: Parent) -> None:
    """Start the servers as ordered, obey until the parent is gone, and end them."""
    order = parent.order()
    if order is None:
        return
    try:
        guardian = Guardian(order)
    except EmbeddedUnavailable as error:
        parent.tell({"error": str(error)})
        return
    try:
        if answer(parent, guardian, guardian.start):
            while (order := parent.order(guardian.tidy)) is not None:
                answer(parent, guardian, partial(guardian.obey, order))
    finally:
        guardian.end()


def answer(parent: Parent, guardian: Guardian, act: Callable[[], None]) -> bool:
    """Act and tell the parent how it went; return whether it went well."""
    try:
        act()
    except (EmbeddedUnavailable, OSError) as error:
        parent.tell({"error": str(error)})
        return False
    parent.tell(guardian.about())
    return True


def main() -> None:
    """Serve the parent at the other end of the inherited socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Only the channel decides. A handler, as "ignore" would be inherited by the servers.
        signal.signal(number, lambda *_: None)
    os.umask(0o022)
    adopt_orphans()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(Parent(channel))


if __name__ == "__main__":
    main()
