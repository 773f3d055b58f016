"""Processes that end by kill -9 at one moment of a piece of work: real ones, with the worker's own runtime.

    python -m tests.support.mortals

Each line of its standard input, a JSON object with `variables`, `work`, `id` and `moment`, makes one child, forked from
this process that has imported everything: 0.1 s of CPU and not 2. The answer says how it ended and what it had called.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from qbo_refresh.bounded import BoundedConnection
from tests.support.processes import PASSED_ON, ROOT
from worker import runtime
from worker.attempt import Trigger
from worker.ending import disconnect
from worker.escrow import RedisEscrow
from worker.exchange import exchange
from worker.intuit import IntuitEndpoint
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from worker.runtime import Runtime

_ANSWERS_WITHIN_S = 60
_WORK: dict[str, Callable[[Runtime, int], object]] = {
    "refresh": lambda here, number: refresh(here.refresher, number, trigger=Trigger.SWEEP),
    "exchange": lambda here, number: exchange(here.exchanger, number),
    "disconnect": lambda here, number: disconnect(here.ender, number),
}
_PORTS = {
    RedisEscrow: ("escrow", ("put", "find")),
    IntuitEndpoint: ("intuit", ("refresh", "exchange", "revoke", "is_of_company")),
}


@dataclass(frozen=True, slots=True)
class Life:
    """How one process went.

    Attributes:
        killed: It met its moment; else it has finished its work.
        calls: What it had asked of PostgreSQL, the escrow and Intuit by then, each answered.
    """

    killed: bool
    calls: list[str]

    @property
    def was_exposed(self) -> bool:
        """Whether it died with an answer of Intuit's that was nowhere else: the one time that may lose a token."""
        return self.killed and bool(self.calls) and self.calls[-1] in {"intuit.refresh", "intuit.exchange"}


class Mortals:
    """Lets processes work and die."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.support.mortals"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            text=True,
        )

    def live(self, variables: Mapping[str, str], work: str, number: int, moment: int) -> Life:
        """Have a piece of work done by a process that dies after so many calls; 0 is before the first."""
        to, answers = self._parent.stdin, self._parent.stdout
        assert to is not None
        assert answers is not None
        to.write(json.dumps({"variables": dict(variables), "work": work, "id": number, "moment": moment}) + "\n")
        to.flush()
        assert select.select([answers], [], [], _ANSWERS_WITHIN_S)[0], f"{work} {number} hangs at {moment}"
        ended = json.loads(answers.readline())
        assert ended["status"] in {0, -signal.SIGKILL}, f"{work} {number} broke at {moment}: {ended}"
        return Life(ended["status"] != 0, ended["calls"])

    def close(self) -> None:
        """End the parent; its child, if there is one, is killed."""
        self._parent.kill()
        self._parent.wait()
        for stream in (self._parent.stdin, self._parent.stdout):
            if stream is not None:
                stream.close()


class _Moments:
    """Counts the calls of this process, and kills it after one of them."""

    def __init__(self, moment: int, told: int) -> None:
        self._left, self._told = moment, told

    def begin(self) -> None:
        """The first moment is before everything."""
        self._die_if_due()

    def answered(self, name: str) -> None:
        """Note a call whose effect is there, and whose answer has not been looked at."""
        os.write(self._told, f"{name}\n".encode())
        self._left -= 1
        self._die_if_due()

    def _die_if_due(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Put itself between this process and whoever it asks."""
        for port, (name, methods) in _PORTS.items():
            for method in methods:
                setattr(port, method, self._after(getattr(port, method), f"{name}.{method}"))
        wait, moments = BoundedConnection.wait, self

        def watched(connection: BoundedConnection, gen: Any, *args: Any, **kwargs: Any) -> Any:
            return wait(connection, moments._until_answered(connection, gen), *args, **kwargs)

        setattr(BoundedConnection, "wait", watched)  # noqa: B010  # a method, as far as mypy is concerned

    def _after(self, work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return work(*args, **kwargs)
            finally:
                self.answered(name)

        return call

    def _until_answered(
        self, connection: BoundedConnection, asking: Generator[Any, Any, Any]
    ) -> Generator[Any, Any, Any]:
        """Stop where PostgreSQL has answered, so that it has carried out what it was asked, and nobody has read it."""
        name, unread = _statement(), True
        try:
            wanted = next(asking)
            while True:
                if unread and wanted == psycopg.waiting.Wait.R:
                    unread = False
                    select.select([connection.fileno()], [], [])
                    self.answered(name)
                wanted = asking.send((yield wanted))
        except StopIteration as done:
            return done.value


def _statement() -> str:
    """Name the statement that is being sent: by its text if it is a transaction's frame, else by who asks."""
    frame = sys._getframe()  # noqa: SLF001  # no other way to know who asks
    text, asker = "", ""
    while frame.f_back is not None and not asker:
        frame = frame.f_back
        name = frame.f_globals.get("__name__", "")
        if not text and name == "psycopg.cursor" and isinstance(query := frame.f_locals.get("query"), str):
            text = query.split(";")[0].strip()
        if name.startswith("worker.store."):
            asker = f"{name.removeprefix('worker.store.')}.{frame.f_code.co_name}"
    return text if text in {"BEGIN", "COMMIT", "ROLLBACK"} else asker


def _live(order: dict[str, Any], told: int) -> None:
    os.environ.update(order["variables"])
    here = runtime.current()
    moments = _Moments(order["moment"], told)
    moments.watch()
    moments.begin()
    _WORK[order["work"]](here, order["id"])


def _serve() -> None:
    while line := sys.stdin.readline():
        heard, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _live(json.loads(line), told)
                status = 0
            except Exception:  # noqa: BLE001  # said, and then it ends
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        os.close(told)
        with os.fdopen(heard) as calls:
            names = calls.read().split("\n")[:-1]
        _, how = os.waitpid(pid, 0)
        sys.stdout.write(json.dumps({"status": os.waitstatus_to_exitcode(how), "calls": names}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
