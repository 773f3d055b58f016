"""`make soak`: lives through 400 days and prints what it saw; exit status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
from typing import TYPE_CHECKING, Any

import psycopg

from tests.conftest import migrate, with_database
from tests.soak import judging, plan, run
from tests.soak.share import OutOfTime
from worker import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.soak.run import Soaked
    from worker.embedded import Servers

PROBE_DAYS = 8
"""Before the first outage. Those of 400 days take about as many attempts as they save: it is a fair measure."""
MARGIN = 0.85


def main(argv: Sequence[str] | None = None) -> int:
    """Run one soak and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--connections", type=int, default=300, help="at least so many (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="chooses outages and whose grants end (default: 1)")
    parser.add_argument("--minutes", type=float, help="take more connections, as many as a probe says fit into so long")
    parser.add_argument("--give-up", type=float, metavar="MINUTES", help="end after so long, with exit status 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        with embedded.start() as servers:
            connections = arguments.connections
            if arguments.minutes:
                connections = _as_many_as_fit(servers, arguments)
            planned = plan.make(days=arguments.days, connections=connections, seed=arguments.seed)
            limit_s = arguments.give_up and arguments.give_up * 60
            with _soaked(servers, "soak", planned, limit_s=limit_s) as soaked:
                verdict = judging.judge(soaked)
    except OutOfTime as error:
        _say(f"Not finished within {arguments.give_up:g} minutes: {error}.")
        return 1
    # The servers have ended: what they took is their parent's to know.
    _print(verdict, {**verdict.figures, "cpu_s": round(_cpu_s(), 1)}, as_json=arguments.json)
    return 1 if verdict.violations else 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextlib.contextmanager
def _soaked(servers: Servers, name: str, planned: plan.Plan, *, limit_s: float | None = None) -> Iterator[Soaked]:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = with_database(servers.database_url, name)
    migrate(url)
    with run.soak(planned, database_url=url, redis_url=servers.redis_url, say=_say, limit_s=limit_s) as soaked:
        yield soaked


def _as_many_as_fit(servers: Servers, arguments: argparse.Namespace) -> int:
    days = min(PROBE_DAYS, arguments.days)
    planned = plan.make(days=days, connections=arguments.connections, seed=arguments.seed)
    with _soaked(servers, "probe", planned) as soaked:
        fit = fitting(
            asked=arguments.connections,
            available_s=arguments.minutes * 60 - (soaked.took_s - soaked.lived_s),
            wanted_s=soaked.lived_s / days * arguments.days,
        )
    _say(f"{days} days with {arguments.connections} connections took {soaked.lived_s:.1f} s: taking {fit}.")
    return fit


def fitting(*, asked: int, available_s: float, wanted_s: float) -> int:
    """Return how many connections fit, never fewer than asked for, if those asked for want so long.

    As if all of it were for the connections: what each sweep costs by itself makes the true number a little larger.
    """
    return max(asked, int(asked * MARGIN * available_s / wanted_s))


def _print(verdict: judging.Verdict, figures: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({**figures, "violations": list(verdict.violations)}) + "\n")
        return
    for name, value in figures.items():
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
