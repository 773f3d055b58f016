"""`make chaos`: harms a real fleet for some minutes and prints what came of it; exit status 1 on a broken promise."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from tests.chaos import plan, recovery, report
from tests.chaos.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one run and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long things go wrong (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="chooses what goes wrong when (default: 1)")
    parser.add_argument("--connections", type=int, default=plan.CONNECTIONS)
    parser.add_argument("--recovery", action="store_true", help="kill workers with default durations, and time it")
    parser.add_argument("--plan", action="store_true", help="print the plan as JSON and do nothing")
    parser.add_argument("--keep", action="store_true", help="keep logs and history even if nothing was violated")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    arguments = parser.parse_args(argv)
    planned = plan.make(seed=arguments.seed, minutes=arguments.minutes, connections=arguments.connections)
    if arguments.plan:
        sys.stdout.write(planned.as_json() + "\n")
        return 0

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    if arguments.recovery:
        figures = recovery.measure(say=say)
        sys.stdout.write("".join(f"{name}: {value}\n" for name, value in figures.items()))
        return 0 if figures["kept"] else 1
    outcome = run(planned, say=say, keep=arguments.keep)
    lines = [json.dumps(outcome.figures)] if arguments.json else report.words(outcome.figures)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if outcome.kept is not None:
        say(f"Logs, plan and history are kept in {outcome.kept}.")
    return 1 if outcome.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
