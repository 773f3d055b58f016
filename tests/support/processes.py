"""Celery's own processes for tests: `celery -A worker.app …`, each a process group of its own, its output in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tests.support import nursery
from worker.queues import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.support.nursery import Forked

T = TypeVar("T")
Variables: TypeAlias = "Mapping[str, str]"
_NONE: Variables = {}

ROOT = nursery.ROOT
PASSED_ON = ("PATH", "TMPDIR", "LANG", "LC_ALL")
PATIENCE_S = 60.0


def eventually(condition: Callable[[], T], *, within_s: float = PATIENCE_S, every_s: float = 0.05, what: str = "") -> T:
    """Return the first true value of a condition that costs more to ask than those of `wait_until`.

    Args:
        condition: Asked again and again.
        within_s: In seconds.
        every_s: In seconds, between two times.
        what: The condition in words, where its own place in the code does not tell which one it was.
    """
    give_up = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > give_up:
            raise AssertionError(f"this did not come true within {within_s} s: {what or condition}")
        time.sleep(every_s)
    return value


@dataclass(frozen=True, slots=True)
class Program:
    """One process and what it has printed."""

    process: subprocess.Popen[bytes] | Forked
    log: Path

    @property
    def pid(self) -> int:
        """Its process id, and its group's."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def output(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text(errors="replace")

    def says(self, pattern: str) -> list[str]:
        """Return what in its output matches a regular expression, or its one group."""
        return re.findall(pattern, self.output())

    def wait_for(self, pattern: str) -> None:
        """Return once it has printed that; fail if it ends before."""

        def said() -> bool:
            return bool(self.says(pattern)) or not self.is_running

        eventually(said)
        assert self.says(pattern), f"it ended without having said {pattern!r}:\n{self.output()}"

    def terminate(self) -> None:
        """Ask it to end, as a deploy does."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its children with kill -9."""
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def exit_code(self) -> int:
        """Wait for its end and return its status."""
        return self.process.wait(PATIENCE_S)


class Programs:
    """Starts processes with these variables and nothing of the developer's own."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        watch: Callable[[int], None],
        *,
        forked: bool = False,
    ) -> None:
        """Take what all processes share.

        Args:
            directory: Where they run, without a `.env`, and where their output goes.
            environment: Their variables.
            watch: Has the process group of that number ended if this process is killed.
            forked: Most come out of the nursery, not from an interpreter of their own.
        """
        self.started: list[Program] = []
        self._directory = directory
        self.environment = {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        self._watch = watch
        self._forked = forked

    @property
    def python_path(self) -> str:
        """Where the processes find this project's code."""
        return self.environment["PYTHONPATH"]

    def start(self, *arguments: str, app: str = "worker.app", variables: Variables = _NONE) -> Program:
        """Start a `celery -A worker.app …`, or another app's; `variables` are those that differ."""
        log = self._directory / f"{len(self.started)}-{arguments[0]}.log"
        log.touch()
        process = self._start(("-A", app, *arguments), log, self.environment | dict(variables))
        self._watch(process.pid)
        program = Program(process, log)
        self.started.append(program)
        return program

    def _start(
        self, arguments: tuple[str, ...], log: Path, variables: dict[str, str]
    ) -> subprocess.Popen[bytes] | Forked:
        # What changes the interpreter itself has to be there when it starts.
        if self._forked and variables["PYTHONPATH"] == str(ROOT):
            start = nursery.here().start
            return start("celery", arguments, variables=variables, directory=self._directory, out=log, err=log)
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                env=variables,
                start_new_session=True,
            )

    def worker(
        self, *options: str, threads: int = 4, queues: Sequence[str] = ALL, variables: Variables = _NONE
    ) -> Program:
        """Start a worker with the Procfile's command, or with `options` for its pool. It may not be ready yet."""
        pool = options or ("-P", "threads", "-c", str(threads))
        name = f"test-{len(self.started)}@%h"
        return self.start("worker", *pool, "-E", "-Q", ",".join(queues), "-n", name, "-l", "INFO", variables=variables)

    def ready_worker(
        self, *options: str, threads: int = 4, queues: Sequence[str] = ALL, variables: Variables = _NONE
    ) -> Program:
        """Start a worker and return when it takes messages."""
        started = self.worker(*options, threads=threads, queues=queues, variables=variables)
        wait_until_ready(started)
        return started

    def beat(self, *, variables: Variables = _NONE) -> Program:
        """Start a beat."""
        return self.start("beat", "-l", "INFO", variables=variables)

    def output(self) -> str:
        """Return what all of them have printed so far."""
        return "".join(program.output() for program in self.started)

    def says(self, pattern: str) -> list[str]:
        """Return what in all of their output matches a regular expression, or its one group."""
        return re.findall(pattern, self.output())

    def close(self) -> None:
        """End what still runs: the tests that ask for an orderly end have had it."""
        for program in self.started:
            program.kill()


def wait_until_ready(*workers: Program) -> None:
    """Return when all these workers take messages."""
    for each in workers:
        each.wait_for(r"@\S+ ready\.")
