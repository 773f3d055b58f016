"""The servers, the simulator and the processes of a benchmark. Nothing of the caller's environment gets in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
import redis

import intuit_simulator
from benchmarks.measure import cpu_seconds
from qbo_refresh import sealing
from worker import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
STOP_WITHIN_S = 30
# 100 threads keep a connection each; the rest is for sweeps and for looking on.
MAX_CONNECTIONS = 300


class CouldNotRun(Exception):
    """The benchmark could not be run to its end; the text says why."""


class Process:
    """One process of ours, in a session of its own, its log in a file."""

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], directory: Path) -> None:
        self._log = Path(tempfile.mkstemp(dir=directory, suffix=".log")[1])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if arguments[1].startswith("benchmarks.") else log,
                stderr=log,
                env=env,
                # A .env file of the caller's must not be found.
                cwd=directory,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def order(self, **order: Any) -> dict[str, Any]:
        """Send one line and wait for the line that answers it."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise self.failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def check(self) -> None:
        """Return if the process still runs."""
        if self._process.poll() is not None:
            raise self.failure()

    def failure(self) -> CouldNotRun:
        """Return an error with the end of the process's log."""
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
        return CouldNotRun(f"{' '.join(map(str, self._process.args[1:]))} did not do its work:\n{tail}")  # type: ignore[index]

    def freeze(self) -> None:
        """Stop the process where it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self.thaw()
            self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Crew:
    """Processes that do one job together; those of a contender."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes

    def __len__(self) -> int:
        return len(self._processes)

    def order(self, **order: Any) -> None:
        """Send one line to the only one, and wait for its answer."""
        (only,) = self._processes
        only.order(**order)

    def cpu_seconds(self) -> float:
        """Return what all of them have spent so far."""
        return sum(cpu_seconds(each.pid) for each in self._processes)

    def check(self) -> None:
        """Return if all of them still run."""
        for each in self._processes:
            each.check()

    def failure(self) -> CouldNotRun:
        """Return an error with the end of the first one's log."""
        return self._processes[0].failure()

    def freeze(self) -> None:
        """Stop all of them where they are."""
        for each in self._processes:
            each.freeze()

    def thaw(self) -> None:
        """Let all of them go on."""
        for each in self._processes:
            each.thaw()


@dataclass(frozen=True, slots=True)
class Stage:
    """What every contender meets.

    Attributes:
        db: A connection in autocommit, to arrange rows and to look on.
        env: The whole environment of the contenders.
    """

    servers: embedded.Servers
    simulator: intuit_simulator.StartedSimulator
    db: psycopg.Connection
    broker: redis.Redis
    env: Mapping[str, str]
    directory: Path

    def start(self, *arguments: str, concurrency: int = 1) -> Process:
        """Start `python` with these arguments; it ends with the stage at the latest."""
        env = {**self.env, "CONCURRENCY": str(concurrency)}
        process = Process(arguments, env=env, directory=self.directory)
        self.servers.watch(process.pid)
        return process

    def set_latencies(self, *seconds: float) -> None:
        """Let the simulator wait that long before it answers a token call: one of these times, as often each."""
        self.simulator.clear_faults()
        for left, delay in zip(range(len(seconds), 0, -1), seconds, strict=True):
            if delay:
                self.simulator.fault("latency", delay=delay, share=1 / left)


@contextlib.contextmanager
def open_stage() -> Iterator[Stage]:
    """Start PostgreSQL, Valkey and the simulator, make the tables, and end it all."""
    with (
        embedded.start(max_connections=MAX_CONNECTIONS) as servers,
        intuit_simulator.start(journal=False, policy="strict") as simulator,
        tempfile.TemporaryDirectory(prefix="qbo-bench-") as directory,
        psycopg.connect(servers.database_url, autocommit=True) as db,
        redis.Redis.from_url(servers.redis_url) as broker,
    ):
        stage = Stage(servers, simulator, db, broker, _environment(servers, simulator), Path(directory))
        _migrate(stage)
        yield stage


def _environment(servers: embedded.Servers, simulator: intuit_simulator.Simulator) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": servers.database_url,
        "SQLALCHEMY_URL": servers.database_url.replace("postgresql://", "postgresql+psycopg://", 1),
        "REDIS_URL": servers.redis_url,
        "TOKEN_KEYS": f"bench:{sealing.new_key()}",
        "LOOKUP_KEY": sealing.new_key(),
        **simulator.settings(),
        "INTUIT_DISCOVERY_URL": simulator.discovery_url,
        # No sweep of the benchmark ends because of its budget.
        "REFRESH_PER_MINUTE": "10000000",
    }


def _migrate(stage: Stage) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from worker.cli import main; main(['migrate'])"],
        env=stage.env,
        cwd=stage.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CouldNotRun(f"The tables could not be made: {done.stderr.strip()[-500:]}")
