"""`python -m tests.explore`: searches all schedules, says how many there were, and shows the shortest that fails."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from intuit_simulator.policy import PolicyName
from tests.explore.designs import WRONG
from tests.explore.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.explore.search import Found

# So many places at each depth of the largest search: a minute or two each.
SAMPLE = 2000


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.explore",
        description="Drive the refresh use case through every order of attempts, faults and time, on stand-ins.",
        epilog="Alone: four attempts with one fault and two with two, all of them, and a sample of three with two:"
        " six minutes on two quiet cores. All of three with two"
        " (--attempts 3 --faults 2) takes an hour or more. Exit status 1 if a promise does not hold.",
    )
    parser.add_argument("--faults", type=int, choices=(0, 1, 2), help="at most so many in a schedule")
    parser.add_argument("--attempts", type=int, help="so many in a schedule, two at once (4; with two faults 3)")
    parser.add_argument("--policy", choices=[str(name) for name in PolicyName], help="one provider instead of all four")
    parser.add_argument("--design", choices=list(WRONG), help="one of the wrong designs instead of the real one")
    parser.add_argument("--places", type=int, help="go on from so many places at each depth, chosen by the seed")
    parser.add_argument("--seed", type=int, default=0, help="of --places (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="searches at once (one for each core)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    return parser.parse_args(arguments)


def _jobs(asked: argparse.Namespace) -> list[Job]:
    if asked.faults is None and asked.attempts is None:
        sizes = [(4, 1, asked.places), (2, 2, asked.places), (3, 2, asked.places or SAMPLE)]
    else:
        faults = 1 if asked.faults is None else asked.faults
        sizes = [(asked.attempts or (3 if faults > 1 else 4), faults, asked.places)]
    return [
        Job(policy, witness, attempts, faults, asked.design, places, asked.seed)
        for attempts, faults, places in sizes
        for policy in PolicyName
        if asked.policy in (None, policy)
        for witness in (True, False)
    ]


def _say(job: Job, found: Found, *, as_json: bool) -> None:
    if as_json:
        said: dict[str, Any] = {**asdict(job), **asdict(found), "excused": dict(found.excused)}
        print(json.dumps(said), flush=True)
        return
    print(
        f"{'✗' if found.violation else '✓'} {job.title}: {found.schedules:,} schedules,"
        f" which meet in {found.places:,} places; {found.steps:,} steps, {found.seconds:.0f} s",
        flush=True,
    )
    if found.left_out:
        print(f"    {found.left_out:,} places were not gone on from")
    for excuse, count in sorted(found.excused.items()):
        print(f"    not promised, {count:,} times: {excuse}")
    if found.violation:
        print(f"    {found.violation}:")
        for number, step in enumerate(found.shortest, 1):
            print(f"    {number:3}. {step}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, and return 1 if a promise did not hold."""
    asked = _arguments(arguments)
    results = []
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(job.search): job for job in _jobs(asked)}
        for done in as_completed(waiting):
            found = done.result()
            results.append(found)
            _say(waiting[done], found, as_json=asked.json)
    if not asked.json:
        schedules, steps = sum(each.schedules for each in results), sum(each.steps for each in results)
        broken = sum(each.violation is not None for each in results)
        print(f"{schedules:,} schedules, {steps:,} steps; {broken} of {len(results)} searches found a broken promise")
    return int(any(each.violation is not None for each in results))


if __name__ == "__main__":
    sys.exit(main())
