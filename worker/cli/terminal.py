"""Runs several programs in one terminal until one ends or somebody stops them. honcho starts them and prints.

honcho's own manager is not used: it kills what has not ended five seconds after the first, and a worker may need 25.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from honcho.colour import get_colours  # type: ignore[import-untyped]
from honcho.printer import Message, Printer  # type: ignore[import-untyped]
from honcho.process import Process  # type: ignore[import-untyped]

from worker import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

END_WITHIN_S = 25.0


@dataclass(slots=True)
class _Child:
    pid: int | None = None
    status: int | None = None


@dataclass(slots=True)
class Terminal:
    """Programs with a name each, each in a session of its own: a ^C reaches this process alone."""

    environment: Mapping[str, str]
    started: Callable[[int], None]
    _events: queue.Queue[Any] = field(default_factory=queue.Queue)
    _children: dict[str, _Child] = field(default_factory=dict)
    _programs: list[Any] = field(default_factory=list)
    _asked: int = 0
    _printer: Any = field(default_factory=lambda: Printer(sys.stdout, width=8))
    _colours: Any = field(default_factory=get_colours)

    def add(self, name: str, command: Sequence[str | os.PathLike[str]]) -> None:
        """Add a program; its output is printed under that name."""
        # `exec`, so that signals reach the program and not a shell.
        line = "exec " + shlex.join(map(str, command))
        program = Process(line, name=name, colour=next(self._colours), env=dict(self.environment))
        self._children[name] = _Child()
        self._programs.append(program)

    def run(self) -> int:
        """Start them all and return when all have ended: 0 after a ^C, 1 if one ended by itself or had to be killed.

        A first ^C lets them finish what is in flight, for 25 s at most; a second kills them.
        """
        with self._listening():
            for program in self._programs:
                threading.Thread(target=program.run, args=(self._events,), daemon=True).start()
            try:
                return self._until_all_ended()
            finally:
                self._signal(signal.SIGKILL)

    def say(self, text: str) -> None:
        """Print a line of our own among the programs'."""
        self._printer.write(Message("line", text + "\n", clock.now().astimezone(), "system", None))

    def _until_all_ended(self) -> int:
        died: str | None = None
        ending_since: float | None = None
        killed = False
        while any(child.status is None for child in self._children.values()):
            with suppress(queue.Empty):
                died = self._take(self._events.get(timeout=0.1)) or died
            if ending_since is None and (self._asked or died):
                ending_since = time.monotonic()
                if died and not self._asked:
                    self.say(f"{died} has ended: stopping the others")
                else:
                    self.say("stopping; what is in flight finishes first (^C again kills)")
                self._signal(signal.SIGTERM)
            if ending_since is not None and not killed:
                overdue = time.monotonic() - ending_since > END_WITHIN_S
                if overdue or self._asked > 1:
                    killed = True
                    self.say("killing what is left")
                    self._signal(signal.SIGKILL)
        while not self._events.empty():
            self._take(self._events.get())
        return 0 if self._asked and not killed else 1

    def _take(self, event: Any) -> str | None:
        """Print a line or note a start or an end; return the name of a program that has ended."""
        match event.type:
            case "line":
                self._printer.write(event)
            case "start":
                self._children[event.name].pid = event.data["pid"]
                self.started(event.data["pid"])
                if self._asked:  # it was asked to stop before it had begun
                    self._signal(signal.SIGTERM)
            case "stop":
                self._children[event.name].status = event.data["returncode"]
                self.say(f"{event.name} ended with status {event.data['returncode']}")
                return str(event.name)
        return None

    def _signal(self, number: int) -> None:
        for child in self._children.values():
            if child.pid is not None and child.status is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, number)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def ask(*_: object) -> None:
            self._asked += 1

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
