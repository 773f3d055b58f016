"""What is measured and how: CPU time of a process, one lap of a contender, medians of laps."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load under which contenders are compared.

    Attributes:
        latencies_s: How long the simulator waits before it answers; one of them each time.
        concurrency: Threads of each contender, and so calls in flight at the most.
        contenders: Who takes part, if asked for.
    """

    name: str
    latencies_s: tuple[float, ...]
    concurrency: int
    count: int
    contenders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lap:
    """One measured run of a contender, the warm-up left out.

    Attributes:
        cpu_s: User and system time of the contender's process, all threads.
        simulator_s: The same of the simulator: near `seconds`, it and not the contender sets the pace.
        exposed_ms: How long a token that had been received was nowhere durable: the half, and 99 in 100, were not
            longer. None but for the worker, whose ledger tells it.
    """

    scenario: str
    contender: str
    count: int
    seconds: float
    cpu_s: float
    simulator_s: float
    exposed_ms: tuple[float, float] | None

    @property
    def rate(self) -> float:
        """Refreshes a second."""
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU for each refresh."""
        return self.cpu_s / self.count * 1000

    @property
    def simulator_busy(self) -> float:
        """The simulator's share of one core."""
        return self.simulator_s / self.seconds


@dataclass(frozen=True, slots=True)
class Sweep:
    """One dispatch of `rows` due connections, by a process that had swept before.

    Attributes:
        grew_kib: The most resident memory during the sweep over what there was before it.
    """

    rows: int
    seconds: float
    cpu_s: float
    grew_kib: int

    @property
    def rate(self) -> float:
        """Connections published a second."""
        return self.rows / self.seconds


@dataclass(frozen=True, slots=True)
class Medians:
    """The medians of a contender's laps in one scenario, each figure by itself."""

    scenario: str
    contender: str
    laps: int
    rate: float
    cpu_ms: float
    simulator_busy: float
    exposed_ms: tuple[float, float] | None


def _medians_of_pairs(pairs: list[tuple[float, float]]) -> tuple[float, float] | None:
    return (median(first for first, _ in pairs), median(second for _, second in pairs)) if pairs else None


def medians(laps: Iterable[Lap]) -> dict[tuple[str, str], Medians]:
    """Return (scenario, contender) → medians, in the order of the laps."""
    groups: dict[tuple[str, str], list[Lap]] = {}
    for lap in laps:
        groups.setdefault((lap.scenario, lap.contender), []).append(lap)
    return {
        key: Medians(
            *key,
            len(group),
            median(lap.rate for lap in group),
            median(lap.cpu_ms for lap in group),
            median(lap.simulator_busy for lap in group),
            _medians_of_pairs([lap.exposed_ms for lap in group if lap.exposed_ms is not None]),
        )
        for key, group in groups.items()
    }


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process has used, all threads, its children not."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        # proc_pid_stat(5): utime and stime are fields 14 and 15; the name in field 2 may hold anything.
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    shown = subprocess.run(
        ["ps", "-o", "time=", "-p", str(pid)],  # noqa: S607  # where it is differs between systems
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    seconds = 0.0
    for part in shown.strip().replace("-", ":").split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
