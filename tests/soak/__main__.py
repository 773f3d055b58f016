"""`make soak`: lives through 400 days and prints what it saw; exit status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import TYPE_CHECKING

import psycopg

from tests.conftest import migrate, with_database
from tests.soak import judging, plan, run
from worker import embedded

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one soak and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="chooses outages and whose grants end (default: 1)")
    parser.add_argument("--minutes", type=float, help="give up after so long, with exit status 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)  # an outage of weeks is thousands of warnings

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    planned = plan.make(days=arguments.days, connections=arguments.connections, seed=arguments.seed)
    with embedded.start() as servers:
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE soak")
        url = with_database(servers.database_url, "soak")
        migrate(url)
        limit_s = arguments.minutes and arguments.minutes * 60
        try:
            with run.soak(planned, database_url=url, redis_url=servers.redis_url, say=say, limit_s=limit_s) as soaked:
                verdict = judging.judge(soaked)
        except run.OutOfTime as error:
            say(f"Not finished within {arguments.minutes:g} minutes: {error}.")
            return 1
    _print(verdict, as_json=arguments.json)
    return 1 if verdict.violations else 0


def _print(verdict: judging.Verdict, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({**verdict.figures, "violations": list(verdict.violations)}) + "\n")
        return
    for name, value in verdict.figures.items():
        shown = "; ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {number}" for key, number in value.items())
        sys.stdout.write(f"{name.replace('_', ' ')}: {shown}\n")
    for violation in verdict.violations:
        sys.stdout.write(f"VIOLATED: {violation}\n")
    sys.stdout.write(
        "Every promise was kept.\n" if not verdict.violations else f"{len(verdict.violations)} violations.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
