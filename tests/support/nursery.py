"""Makes processes of the worker out of one that has imported everything: each costs a fork and not its imports.

What such a process does from `main` on is what `celery …` and `qbo-refresh …` do; its variables, directory, session and
output are its own. A test about how a program starts, or about its place in the process table, takes a real one.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
Kind: TypeAlias = Literal["celery", "qbo-refresh", "tests.support.dying"]
# These read the environment when they are imported, or belong to no process that is made here.
_LATER = ("worker.app", "worker.tasks", "worker.demo", "worker.cli.demo", "worker.cli.__main__")
_CELERYS = (
    "celery.__main__",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.beat",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.events.state",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.control",
    "celery.worker.strategy",
    "kombu.transport.redis",
    "psycopg",
    "requests",
    "sqlalchemy.dialects.postgresql.psycopg",
)


class Nursery:
    """The parent of those processes, from the side of a test."""

    def __init__(self) -> None:
        """Start it; it ends with this process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            text=True,
        )
        self._read()

    def start(
        self,
        kind: Kind,
        arguments: Sequence[str],
        *,
        variables: Mapping[str, str],
        directory: Path,
        out: Path,
        err: Path,
    ) -> Forked:
        """Make a process that has these variables and no others; what it prints is appended to the files."""
        order = {"kind": kind, "arguments": list(arguments), "variables": dict(variables)}
        paths = {"directory": str(directory), "out": str(out), "err": str(err)}
        return Forked(int(self.ask({**order, **paths})["pid"]), self)

    def ask(self, order: dict[str, Any]) -> Any:
        """Have an order carried out, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has ended"
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@functools.cache
def here() -> Nursery:
    """Return this process's nursery, started when it is first asked for."""
    return Nursery()


def close() -> None:
    """End this process's nursery, if there is one."""
    if here.cache_info().currsize:
        here().close()
        here.cache_clear()


@dataclass(slots=True)
class Forked:
    """A process that was made there: what tests use of `subprocess.Popen`."""

    pid: int
    nursery: Nursery
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return its status once it has ended; negative for the signal that ended it."""
        if self.returncode is None:
            self.returncode = self.nursery.ask({"poll": self.pid})["status"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its status."""
        give_up = time.monotonic() + (timeout or float("inf"))
        while (status := self.poll()) is None:
            if time.monotonic() > give_up:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _preload() -> None:
    import worker  # noqa: PLC0415  # in the nursery alone

    for name in _CELERYS:
        importlib.import_module(name)
    for found in pkgutil.walk_packages(worker.__path__, "worker."):
        if not found.name.startswith(_LATER):
            importlib.import_module(found.name)
    gc.collect()
    gc.freeze()  # or each child's first collection would copy every page


def serve() -> None:
    """Make a child, or look after one, for each line."""
    _preload()
    _answer({})
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            _answer({"status": os.waitstatus_to_exitcode(status) if pid else None})
        else:
            _answer({"pid": _fork(order)})


def _fork(order: dict[str, Any]) -> int:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(order, writing)
    os.close(writing)
    os.read(reading, 1)  # it leads its group, and may be killed by it
    os.close(reading)
    return pid


def _become(order: dict[str, Any], ready: int) -> None:
    os.setsid()
    os.chdir(order["directory"])
    streams = (
        (os.devnull, os.O_RDONLY),
        *((order[each], os.O_WRONLY | os.O_CREAT | os.O_APPEND) for each in ("out", "err")),
    )
    for target, (path, how) in enumerate(streams):
        opened = os.open(path, how, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    os.close(ready)
    os.environ.clear()
    os.environ.update(order["variables"])
    sys.argv = [order["kind"], *order["arguments"]]
    status = 1
    try:
        _main(order["kind"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001  # as the interpreter does
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _main(kind: Kind) -> None:
    module = {"celery": "celery.__main__", "qbo-refresh": "worker.cli"}.get(kind, kind)
    importlib.import_module(module).main()  # imported long ago


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
