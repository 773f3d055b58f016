"""What came out: ratios, targets, the table, JSON. No host name and no path is in it."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import medians

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.measure import Lap, Medians, Sweep
    from benchmarks.stage import Stage

CPU_MS_AT_MOST = 3.3
SHARE_OF_BARE_AT_LEAST = 0.77
AHEAD_OF_HANDWRITTEN_AT_LEAST = 2.0
PUBLISHED_A_SECOND_AT_LEAST = 4000
# What ten times the rows may add to the most memory: less than ten bytes for each of 90,000 more.
GROWTH_AT_MOST_KIB = 2048
SIMULATOR_BUSY = 0.85

_PACKAGES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "requests", "urllib3", "cryptography", "intuit-oauth")


@dataclass(frozen=True, slots=True)
class Target:
    """One promise, and whether this run kept it."""

    promise: str
    figure: str
    met: bool


@dataclass(frozen=True, slots=True)
class Results:
    """Everything measured in one run."""

    machine: dict[str, Any]
    laps: Sequence[Lap]
    sweeps: Sequence[Sweep]

    def medians(self) -> dict[tuple[str, str], Medians]:
        """Return (scenario, contender) → medians."""
        return medians(self.laps)

    def sweep_medians(self) -> dict[int, tuple[float, float]]:
        """Return rows → connections published a second, and the growth of memory in KiB."""
        sizes = sorted({sweep.rows for sweep in self.sweeps})
        groups = {rows: [sweep for sweep in self.sweeps if sweep.rows == rows] for rows in sizes}
        return {rows: (median(s.rate for s in ss), median(s.grew_kib for s in ss)) for rows, ss in groups.items()}


def machine(stage: Stage) -> dict[str, Any]:
    """Return the facts of machine and versions without which the figures mean nothing."""
    postgres = stage.db.info.parameter_status("server_version")
    server: dict[str, Any] = stage.broker.info("server")
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgresql": postgres,
        "valkey": server.get("valkey_version", server.get("redis_version")),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str | None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def targets(results: Results) -> Iterator[Target]:
    """Yield the promises that this run can say something about."""
    found = results.medians()
    for scenario in dict.fromkeys(scenario for scenario, _ in found):
        worker, bare, other = (found.get((scenario, name)) for name in ("worker", "bare", "handwritten"))
        if worker is None:
            continue
        promise = f"{scenario}: at most {CPU_MS_AT_MOST} ms of CPU a refresh, task events on"
        yield Target(promise, f"{worker.cpu_ms:.2f} ms", worker.cpu_ms <= CPU_MS_AT_MOST)
        if other:
            ahead = other.cpu_ms / worker.cpu_ms
            promise = f"{scenario}: at most 1/{AHEAD_OF_HANDWRITTEN_AT_LEAST:g} of handwritten's CPU"
            yield Target(promise, f"1/{ahead:.2f}", ahead >= AHEAD_OF_HANDWRITTEN_AT_LEAST)
        if bare and scenario == "250ms":
            share = worker.rate / bare.rate
            promise = f"{scenario}: at least {SHARE_OF_BARE_AT_LEAST:.0%} of bare's rate"
            yield Target(promise, f"{share:.0%}", share >= SHARE_OF_BARE_AT_LEAST)
    yield from _sweep_targets(results)


def _sweep_targets(results: Results) -> Iterator[Target]:
    sweeps = results.sweep_medians()
    if not sweeps:
        return
    fewest, most = min(sweeps), max(sweeps)
    rate = sweeps[most][0]
    promise = f"dispatch: at least {PUBLISHED_A_SECOND_AT_LEAST:,} of {most:,} due connections a second"
    yield Target(promise, f"{rate:,.0f}", rate >= PUBLISHED_A_SECOND_AT_LEAST)
    more = sweeps[most][1] - sweeps[fewest][1]
    promise = f"dispatch: {most:,} due connections take no more memory than {fewest:,} (2 MiB are noise)"
    yield Target(promise, f"{more / 1024:+.1f} MiB", more <= GROWTH_AT_MOST_KIB)


def lines(results: Results) -> Iterator[str]:
    """Yield the report for a terminal."""
    facts = results.machine
    yield (
        f"{facts['cores']} cores, {facts['processor'] or facts['architecture']}, load {facts['load_before']} before;"
        f" Python {facts['python']}, Celery {facts['celery']}, PostgreSQL {facts['postgresql']},"
        f" Valkey {facts['valkey']}"
    )
    found = results.medians()
    if found:
        yield ""
        yield f"{'':20} {'refreshes/s':>12} {'of bare':>8} {'CPU ms each':>12} {'x bare':>8} {'simulator':>10} laps"
    for (scenario, contender), row in found.items():
        bare = found.get((scenario, "bare"))
        share, times = (f"{row.rate / bare.rate:.0%}", f"{row.cpu_ms / bare.cpu_ms:.2f}") if bare else ("-", "-")
        busy = f"{row.simulator_busy:.0%}" + ("!" if row.simulator_busy > SIMULATOR_BUSY else "")
        yield (
            f"{scenario:7} {contender:12} {row.rate:12,.0f} {share:>8} {row.cpu_ms:12.2f} {times:>8} {busy:>10}"
            f" {row.laps:4}"
        )
    yield from _exposed(found)
    if any(row.simulator_busy > SIMULATOR_BUSY for row in found.values()):
        yield "! the simulator had no core to spare: it may have set the pace"
    if results.sweeps:
        yield ""
        yield f"{'due connections':>20} {'published/s':>12} {'memory grew':>12}"
    for rows, (rate, grew) in results.sweep_medians().items():
        yield f"{rows:20,} {rate:12,.0f} {grew / 1024:8.1f} MiB"
    yield ""
    for target in targets(results):
        yield f"{'met   ' if target.met else 'MISSED'} {target.promise}: {target.figure}"


def _exposed(found: dict[tuple[str, str], Medians]) -> Iterator[str]:
    windows = {key: row.exposed_ms for key, row in found.items() if row.exposed_ms is not None}
    if windows:
        yield ""
        yield f"{'received, no copy acknowledged yet':33} {'half':>8} {'99 in 100':>10}"
    for (scenario, contender), (half, most) in windows.items():
        yield f"{scenario:7} {contender:25} {half:5.2f} ms {most:7.2f} ms"


def as_json(results: Results) -> dict[str, Any]:
    """Return everything, single laps included, for programs."""
    found = results.medians()
    return {
        "machine": results.machine,
        "medians": [asdict(row) | _ratios(row, found) for row in found.values()],
        "dispatch": [
            {"rows": rows, "rate": rate, "grew_kib": grew} for rows, (rate, grew) in results.sweep_medians().items()
        ],
        "targets": [asdict(target) for target in targets(results)],
        "laps": [asdict(lap) | {"rate": lap.rate, "cpu_ms": lap.cpu_ms} for lap in results.laps],
        "sweeps": [asdict(sweep) | {"rate": sweep.rate} for sweep in results.sweeps],
    }


def _ratios(row: Medians, found: dict[tuple[str, str], Medians]) -> dict[str, float]:
    return {
        f"{figure}_over_{other}": getattr(row, figure) / getattr(found[row.scenario, other], figure)
        for other in ("bare", "handwritten")
        if (row.scenario, other) in found
        for figure in ("rate", "cpu_ms")
    }
