"""`run` as a person uses it: everything starts, ^C ends everything, and what is in flight is saved."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from worker.embedded.directories import make_scratch
from worker.embedded.processes import remove_tree, server_account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intuit_simulator import Simulator
    from tests.support.fleet import Fleet

ROOT = str(Path(__file__).resolve().parents[2])
pytestmark = pytest.mark.timeout(180)


class Run:
    """A `qbo-refresh run` and what it has printed."""

    def __init__(self, options: tuple[str, ...], environment: dict[str, str], directory: Path) -> None:
        plain = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            (sys.executable, "-m", "worker.cli", "run", *options),
            env=plain | environment,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.lines.extend(iter(output.readline, ""))

    @property
    def text(self) -> str:
        """Return all that it has printed."""
        return "".join(list(self.lines))

    def says(self, text: str, *, within_s: float = 60) -> None:
        """Wait until it has printed a text."""
        wait_until(lambda: text in self.text or self.process.poll() is not None, within_s=within_s)
        assert text in self.text, self.text

    def ends(self, *, within_s: float) -> int:
        """Wait for its end and return its status."""
        status = self.process.wait(within_s)
        self._reader.join()
        return status

    def children(self) -> list[int]:
        """Return the processes below this one, by the process table of Linux."""
        below, found = {self.process.pid}, []
        for pid, parent in _parents():
            if parent in below:
                below.add(pid)
                found.append(pid)
        return found


def _parents() -> list[tuple[int, int]]:
    pairs = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pairs.append((int(directory.name), int(fields[1])))
    return sorted(pairs)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def start(*options: str, directory: Path = tmp_path, **environment: str) -> Run:
        started.append(Run(options, environment, directory))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGTERM)
            each.process.send_signal(signal.SIGTERM)
            each.ends(within_s=40)


def test_what_is_in_flight_is_saved_and_the_rest_goes_back_to_the_queue(
    run: Callable[..., Run], environment: dict[str, str], fleet: Fleet, simulator: Simulator
) -> None:
    made = fleet.connect(6)
    simulator.fault("latency", delay=4)
    running = run("--no-flower", "--threads", "2", **environment, SWEEP_SECONDS="1")
    wait_until(lambda: len(simulator.in_flight()) == 2, within_s=60)
    below = running.children()
    running.process.send_signal(signal.SIGINT)
    assert running.ends(within_s=25) == 0, running.text
    refreshed = [each for each in made if fleet.row(each.id).last_outcome == "refreshed"]
    assert len(refreshed) == 2
    assert all(fleet.holds_the_live_token(each) for each in made)
    assert not [each.id for each in made if fleet.row(each.id).is_leased]
    assert len(below) >= 2
    assert not [pid for pid in below if _is_alive(pid)]
    simulator.clear_faults()
    again = run("--no-flower", "--threads", "2", **environment, SWEEP_SECONDS="60")
    # Their queue marks hold for minutes: only the messages that went back can bring them.
    wait_until(lambda: all(fleet.row(each.id).last_outcome == "refreshed" for each in made), within_s=60)
    again.process.send_signal(signal.SIGTERM)
    assert again.ends(within_s=25) == 0


def test_a_second_interrupt_does_not_wait(
    run: Callable[..., Run], environment: dict[str, str], fleet: Fleet, simulator: Simulator
) -> None:
    fleet.connect()
    simulator.fault("latency", delay=15)
    running = run("--no-flower", "--threads", "2", **environment, SWEEP_SECONDS="1")
    wait_until(simulator.in_flight, within_s=60)
    running.process.send_signal(signal.SIGINT)
    running.says("finishes first")
    running.process.send_signal(signal.SIGINT)
    assert running.ends(within_s=8) == 1
    simulator.clear_faults()


def test_the_end_of_one_program_ends_all_with_status_1(run: Callable[..., Run], environment: dict[str, str]) -> None:
    running = run("--no-flower", "--threads", "2", **environment)
    wait_until(lambda: len(running.children()) == 2, within_s=30)
    running.says("[queues]")
    below = running.children()
    os.kill(below[1], signal.SIGKILL)
    assert running.ends(within_s=25) == 1
    assert "has ended: stopping the others" in running.text
    assert not [pid for pid in below if _is_alive(pid)]


def test_embedded_servers_keep_data_and_keys_and_no_password_is_printed(
    run: Callable[..., Run], environment: dict[str, str]
) -> None:
    # Root's servers run as nobody, who cannot enter a directory of pytest's.
    home = make_scratch(server_account())
    try:
        mine = {name: value for name, value in environment.items() if name.startswith("INTUIT")}
        data = home / "data"
        running = run("--embedded", "--directory", str(data), "--no-flower", directory=home, **mine, SWEEP_SECONDS="1")
        running.says("sweep published=0", within_s=90)
        running.process.send_signal(signal.SIGINT)
        assert running.ends(within_s=40) == 0, running.text
        kept = (data / "keys.env").read_text()
        password = (data / "credentials.env").read_text().split(":")[2].split("@")[0]
        assert password not in running.text
        command = re.search(r"For other commands: (.*)", running.text)
        assert command is not None
        told = subprocess.run(["/bin/sh", "-c", f"{command[1]}; env"], capture_output=True, text=True, check=True)
        assert {"DATABASE_URL", "REDIS_URL", "TOKEN_KEYS", "LOOKUP_KEY"} <= {
            line.partition("=")[0] for line in told.stdout.splitlines()
        }
        assert kept.split("=", 1)[1].split()[0] not in running.text
        for file in (data / "keys.env", data / "credentials.env"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        again = run("--embedded", "--directory", str(data), "--no-flower", directory=home, **mine, SWEEP_SECONDS="1")
        again.says("sweep published=0", within_s=90)
        again.process.send_signal(signal.SIGTERM)
        assert again.ends(within_s=40) == 0
        assert (data / "keys.env").read_text() == kept
        assert not again.children()
    finally:
        remove_tree(home)
