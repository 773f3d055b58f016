"""The processes that are killed and frozen: workers and a beat, each in a slot, started again by whoever ended them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.history import Kill, Span
from tests.chaos.plan import BEAT
from tests.support.processes import PASSED_ON, ROOT
from worker.queues import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

THREADS = 4
HOST = -1
"""The slot of the host's worker, which nobody harms."""
_ENDS_WITHIN_S = 5.0
# A child that the nursery could not make is a machine out of memory: better an end than a wait.
_READY_WITHIN_S = 60.0


@dataclass(slots=True)
class Member:
    """A process in a slot.

    Attributes:
        generation: That of the variables it was started with.
        is_leaving: It was asked to end.
    """

    pid: int
    generation: int
    frozen_since: float | None = None
    is_leaving: bool = False


class Crew:
    """Starts, kills, freezes and replaces. Its methods may be called from any thread."""

    def __init__(self, directory: Path, variables: Mapping[str, str], watch: Callable[[int], None]) -> None:
        """Start the nursery.

        Args:
            directory: Where everything runs and logs.
            variables: Those of a worker.
            watch: Has a process group ended with this process.
        """
        self.kills: list[Kill] = []
        self.spans: list[Span] = []
        self.started = 0
        self.ended_by_themselves = 0
        self._directory = directory
        self._variables = dict(variables)
        self._generation = 0
        self._members: dict[int, Member] = {}
        self._lock = threading.RLock()
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with (directory / "nursery.log").open("wb") as log:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=directory,
                env={**passed_on, "HOME": str(directory), "PYTHONPATH": str(ROOT)},
                start_new_session=True,
                text=True,
            )
        watch(self._nursery.pid)
        assert "ready" in self._read()

    def start(self, slot: int, **more: str) -> None:
        """Start a slot's process, a worker's or the beat's, with the variables that are in force."""
        with self._lock:
            variables = self._variables | more
            self._members[slot] = Member(self._fork(self._arguments(slot), variables, slot), self._generation)

    def start_host(self, variables: Mapping[str, str]) -> None:
        """Start the host's own worker, which takes events."""
        arguments = ["-A", "tests.support.host_app", "worker", "-P", "solo", "-n", "host@%h", "-l", "WARNING"]
        with self._lock:
            self._members[HOST] = Member(self._fork(arguments, variables, HOST), 0)

    def kill(self, slot: int) -> None:
        """End it with kill -9 and start another."""
        with self._lock:
            member = self._living(slot)
            os.kill(member.pid, signal.SIGKILL)
            self._note_kill(slot, member)
            self.start(slot)

    def slot_of(self, name: str | None) -> int | None:
        """Return the slot of the worker that the tables call by this name; None unless it runs, and is not frozen."""
        pid = (name or "").rpartition(":")[2]
        with self._lock:
            for slot, member in self._members.items():
                if str(member.pid) == pid and slot not in (BEAT, HOST) and member.frozen_since is None:
                    return slot
        return None

    def freeze(self, slot: int) -> int | None:
        """Stop it with SIGSTOP; return its process id, or None if it stands already."""
        with self._lock:
            member = self._living(slot)
            if member.frozen_since is not None:
                return None
            os.kill(member.pid, signal.SIGSTOP)
            member.frozen_since = time.monotonic()
            return member.pid

    def thaw(self, slot: int, pid: int, *, killed: bool = False) -> None:
        """Let it go on, or end it where it stands; nothing if another process has its slot by now."""
        with self._lock:
            member = self._members[slot]
            if member.pid != pid or member.frozen_since is None:
                return
            if killed:
                self.kill(slot)
                return
            os.kill(pid, signal.SIGCONT)
            self._note_thaw(member)

    def configure(self, changes: Mapping[str, str]) -> None:
        """Have processes started from now on with these variables, and replace all others, one after the other."""
        with self._lock:
            self._variables |= changes
            self._generation += 1
        for slot in sorted(self._members):
            if slot != HOST:
                self._replace(slot)

    def thaw_all(self) -> None:
        """Let everybody go on."""
        with self._lock:
            for slot, member in self._members.items():
                self.thaw(slot, member.pid)

    def revive(self) -> None:
        """Start those anew that have ended by themselves: what a supervisor does."""
        with self._lock:
            for slot in self._members:
                if slot != HOST:
                    self._living(slot)

    def close(self) -> None:
        """End the nursery and everything that it made."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        with contextlib.suppress(OSError):
            self._nursery.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nursery.wait(_ENDS_WITHIN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nursery.pid, signal.SIGKILL)
        self._nursery.wait()
        self._nursery.stdout.close()

    def _living(self, slot: int) -> Member:
        member = self._members[slot]
        if not _is_running(member.pid):
            self.ended_by_themselves += not member.is_leaving
            self._note_thaw(member)
            self.start(slot)
        return self._members[slot]

    def _arguments(self, slot: int) -> list[str]:
        if slot == BEAT:
            return ["-A", "worker.app", "beat", "-l", "INFO"]
        # Mingling would keep each new worker waiting for a second, a sixth of its life here.
        queues = ("-E", "-Q", ",".join(ALL), "-n", f"chaos-{slot}-{self.started}@%h")
        pool = ("-P", "threads", "-c", str(THREADS), "--without-mingle", "--without-gossip")
        return ["-A", "worker.app", "worker", *pool, *queues, "-l", "INFO"]

    def _fork(self, arguments: list[str], variables: Mapping[str, str], slot: int) -> int:
        name = {BEAT: "beat", HOST: "host"}.get(slot, f"worker-{slot}")
        order = {
            "arguments": arguments,
            "variables": dict(variables),
            "log": str(self._directory / f"{name}.log"),
        }
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        self.started += 1
        return int(self._read()["pid"])

    def _read(self) -> dict[str, int]:
        assert self._nursery.stdout is not None
        answer: dict[str, int] = json.loads(self._nursery.stdout.readline())
        return answer

    def _note_kill(self, slot: int, member: Member) -> None:
        role = "beat" if slot == BEAT else "worker"
        self.kills.append(Kill(time.monotonic(), member.pid, role, frozen=member.frozen_since is not None))
        self._note_thaw(member)

    def _note_thaw(self, member: Member) -> None:
        if member.frozen_since is not None:
            self.spans.append(Span("worker", "frozen", member.frozen_since, time.monotonic(), member.pid))
            member.frozen_since = None

    def _replace(self, slot: int) -> None:
        """Ask a process of an older generation to end, wait for it, and start another; a frozen one goes on first."""
        give_up = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < give_up:
            with self._lock:
                member = self._members[slot]
                if member.generation == self._generation:
                    return  # killed meanwhile, and started anew with these
                if member.frozen_since is None:
                    member.is_leaving = True
                    break
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGTERM)
        give_up = time.monotonic() + _ENDS_WITHIN_S
        while time.monotonic() < give_up and _is_running(member.pid):
            time.sleep(0.02)
        with self._lock:
            if self._members[slot].pid == member.pid:
                if _is_running(member.pid):
                    self.kill(slot)
                else:
                    self._note_thaw(member)
                    self.start(slot)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
