"""`python -m benchmarks`: the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from benchmarks import fleet, laps, report, sweeps
from benchmarks.measure import Lap, Scenario, Sweep
from benchmarks.stage import CouldNotRun, Stage, open_stage

SCENARIOS = (
    Scenario("0ms", (0.0,), 20, 2000, ("bare", "handwritten", "handwritten_once", "worker", "empty")),
    Scenario("250ms", (0.25,), 100, 3000, ("bare", "handwritten", "handwritten_once", "worker", "worker_alone")),
    # A minute's worth at the default rate, for one process of the Procfile's.
    Scenario("sweep", (0.15, 0.2, 0.25, 0.3, 0.35), 20, 1200, ("worker",)),
)
QUICK = tuple(replace(scenario, count=scenario.count // 5) for scenario in SCENARIOS)
DISPATCH = "dispatch"
ROWS, QUICK_ROWS = (10_000, 100_000), (2_000, 20_000)
NAMES = (*(scenario.name for scenario in SCENARIOS), DISPATCH, *laps.CONTENDERS, *laps.VARIANTS)


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    click.echo(text, err=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--quick", is_flag=True, help="Small counts, one lap each: does it run? Its figures are noise.")
@click.option("--repeats", type=click.IntRange(1, 50), default=3, show_default=True, help="Laps of each contender.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Scenarios and contenders; may be repeated.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, allow_dash=True), help="Write JSON; - for stdout.")
@click.option("--check", is_flag=True, help="Exit with status 1 if a target was missed.")
def main(*, quick: bool, repeats: int, only: tuple[str, ...], json_file: str | None, check: bool) -> None:
    """Measure the worker beside what one would write instead, on servers of its own.

    bare: requests and one UPDATE, in threads. handwritten: a Celery task with Intuit's client, a Redis lock and an
    ORM. handwritten_once: the same, its discovery document asked for once; only when named. worker: this worker as
    the Procfile runs it, a process for each 20 in flight. worker_alone: one process with all threads. empty: a Celery
    task that does nothing, without latency only.

    Medians of laps that take turns. Some seven minutes on two cores; nothing else should run meanwhile. Exit status 2
    if it could not be run.
    """
    try:
        with open_stage() as stage:
            results = _measure(stage, quick=quick, repeats=1 if quick else repeats, only=only)
    except (CouldNotRun, OSError) as error:
        say(f"benchmarks: {error}")
        sys.exit(2)
    for line in report.lines(results):
        click.echo(line, err=json_file == "-")
    if json_file is not None:
        text = json.dumps(report.as_json(results), indent=1) + "\n"
        sys.stdout.write(text) if json_file == "-" else Path(json_file).write_text(text)
    if check and not all(target.met for target in report.targets(results)):
        sys.exit(1)


def _measure(stage: Stage, *, quick: bool, repeats: int, only: tuple[str, ...]) -> report.Results:
    contenders = [name for name in (*laps.CONTENDERS, *laps.VARIANTS) if name in only] or list(laps.CONTENDERS)
    scenarios = [one for one in (QUICK if quick else SCENARIOS) if one.name in only]
    if not scenarios and DISPATCH not in only:
        scenarios = list(QUICK if quick else SCENARIOS)
    machine = report.machine(stage)
    run = _race(stage, scenarios, contenders, repeats) if scenarios else []
    swept = _sweeps(stage, QUICK_ROWS if quick else ROWS, repeats) if not only or DISPATCH in only else []
    return report.Results(machine, run, swept)


def _race(stage: Stage, scenarios: list[Scenario], contenders: list[str], repeats: int) -> list[Lap]:
    done: list[Lap] = []
    fleet.make(stage, contenders, max(scenario.count for scenario in scenarios))
    with stage.start("-m", "benchmarks.contenders.sweep") as sweeper:
        for scenario in scenarios:
            stage.set_latencies(*scenario.latencies_s)
            for repeat in range(repeats):
                for contender in (each for each in contenders if each in scenario.contenders):
                    lap = laps.run(stage, scenario, contender, sweeper)
                    done.append(lap)
                    say(
                        f"{scenario.name} {repeat + 1}/{repeats} {contender}: {lap.rate:.0f} a second,"
                        f" {lap.cpu_ms:.2f} ms of CPU each"
                    )
    return done


def _sweeps(stage: Stage, sizes: tuple[int, ...], repeats: int) -> list[Sweep]:
    done = []
    fleet.make_dummies(stage, max(sizes))
    for repeat in range(repeats):
        for rows in sizes:
            sweep = sweeps.run(stage, rows)
            done.append(sweep)
            say(f"dispatch {repeat + 1}/{repeats} of {rows:,}: {sweep.rate:,.0f} a second, +{sweep.grew_kib} KiB")
    return done


if __name__ == "__main__":
    main()
