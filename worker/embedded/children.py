"""Processes of a demonstration: each in a session of its own, with its settings alone, its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qbo_refresh.errors import QboRefreshError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PASSED_ON = ("PATH", "TZ", "LANG", "LC_ALL")
_COMMAND_WITHIN_S = 60
_END_WITHIN_S = 6.0


class CommandFailed(QboRefreshError):
    """A command of `qbo-refresh` has failed. The text says which, and the last that it said."""


class Children:
    """Processes that end with `end`, and with the servers' guardian if this process is killed."""

    def __init__(self, directory: Path, settings: Mapping[str, str], watch: Callable[[int], None]) -> None:
        """Take what all children share.

        Args:
            directory: Where they run, and where their logs and temporary files go. No `.env` of the user's is there.
            settings: Their environment, beside the little that is passed on of ours.
            watch: Has the process group of that number ended if we cannot.
        """
        self.logs = directory / "logs"
        self.logs.mkdir()
        # A prefork pool makes a temporary directory, and one that is killed leaves it (billiard.util.get_temp_dir).
        temporary = directory / "tmp"
        temporary.mkdir()
        self._directory = directory
        root = str(Path(__file__).resolve().parents[2])
        self._environment = {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            "HOME": str(directory),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
            **settings,
        }
        self._watch = watch
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *arguments: str) -> str:
        """Run one command of `qbo-refresh` to its end and return what it printed.

        Raises:
            CommandFailed: It failed.
        """
        done = subprocess.run(  # noqa: S603  # our own command line
            [sys.executable, "-m", "worker.cli", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self._directory,
            env=self._environment,
            timeout=_COMMAND_WITHIN_S,
            start_new_session=True,
            check=False,
        )
        (self.logs / f"{arguments[0]}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no word of why").splitlines()[-1]
            raise CommandFailed(f"`qbo-refresh {arguments[0]}` failed: {said}")
        return done.stdout

    def celery(self, name: str, *arguments: str, **more: str) -> int:
        """Start a `celery -A worker.app …` and return its process id; `more` goes into its environment."""
        return self.start(name, "celery", "-A", "worker.app", *arguments, **more)

    def start(self, name: str, module: str, *arguments: str, **more: str) -> int:
        """Start a `python -m …` and return its process id; `more` goes into its environment."""
        with (self.logs / f"{name.replace(' ', '-')}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # what is installed, and what lies beside
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._environment | more,
                start_new_session=True,
            )
        self._running[name] = process
        self._watch(process.pid)
        return process.pid

    def kill(self, name: str) -> None:
        """End one with kill -9."""
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ended(self) -> tuple[str, ...]:
        """Return the names of those that have ended although nobody asked them to."""
        return tuple(name for name, process in self._running.items() if process.poll() is not None)

    def end(self) -> None:
        """Ask all to end, and kill those that take too long."""
        give_up = time.monotonic() + _END_WITHIN_S
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(max(0.1, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()
