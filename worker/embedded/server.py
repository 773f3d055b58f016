"""One server process: the same port and the same data at every start."""

import abc
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from worker.embedded.errors import EmbeddedUnavailable
from worker.embedded.processes import Account, end, free_port

if TYPE_CHECKING:
    import subprocess

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.1
READY_WITHIN_SECONDS = 60.0
LOG_TAIL_CHARACTERS = 1500


class Server(abc.ABC):
    """A server that can be stopped, killed and started again without its clients needing another address."""

    name: ClassVar[str]
    stop_signal: ClassVar[int]

    def __init__(self, program: Path, directory: Path, *, account: Account, keep_open: Sequence[int]) -> None:
        self.program = program
        self.log = directory / f"{self.name.lower()}.log"
        self.account = account
        self.port: int | None = None
        self._keep_open = keep_open
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> list[str | Path]:
        """Return the arguments: public, so without secrets."""

    @abc.abstractmethod
    def is_ready(self, pid: int) -> bool:
        """Say whether the process serves; raise OSError or ValueError for "not yet" too."""

    def feed(self) -> str:
        """Return what the server reads from its standard input."""
        return ""

    @property
    def pid(self) -> int | None:
        """The running process, or None."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def start(self) -> None:
        """Start it on the port it had, or else a free one; raise EmbeddedUnavailable with the end of its log."""
        if self.pid is not None:
            return
        had = self.port
        for attempt in range(ATTEMPTS):
            time.sleep(FIRST_PAUSE_SECONDS * (2**attempt - 1))
            # A free port may be taken before the server binds it; what a killed PostgreSQL leaves ends a little later.
            self.port = had or free_port()
            if self._starts():
                return
        self.port = had
        raise EmbeddedUnavailable(f"{self.name} did not start. The end of its log:\n{self._log_tail()}")

    def stop(self) -> None:
        """Shut it down in an orderly way."""
        self.end(self.stop_signal)

    def kill(self) -> None:
        """End it as a crash would."""
        self.end(signal.SIGKILL)

    def end(self, number: int) -> None:
        """Signal it and wait for its end."""
        if self._process is not None:
            end(self._process, number)

    def _starts(self) -> bool:
        self._process = process = self.account.spawn(
            self.command(), log=self.log, feed=self.feed(), keep_open=self._keep_open, if_orphaned=self.stop_signal
        )
        give_up = time.monotonic() + READY_WITHIN_SECONDS
        while process.poll() is None and time.monotonic() < give_up:
            try:
                if self.is_ready(process.pid):
                    return True
            except (OSError, ValueError):
                pass
            time.sleep(0.02)
        self.kill()
        return False

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()
