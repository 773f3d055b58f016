"""From kill -9 to the next refresh: a real worker and beat with default lease and sweep, killed at three moments.

python -m tests.chaos --recovery
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from celery import Celery

import intuit_simulator
from qbo_refresh import sealing
from tests.conftest import migrate, settings_of, with_database
from tests.support.fleet import Fleet
from tests.support.processes import Programs, eventually
from tests.support.proxy import FaultProxy, Way
from worker import embedded
from worker.database import Database
from worker.escrow import RedisEscrow
from worker.queues import ADHOC, REFRESH_CONNECTION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from intuit_simulator import Simulator
    from tests.support.fleet import Connected
    from tests.support.processes import Program

IN_FLIGHT: Final = 20
BOUND_S: Final = 130.0
"""A lease, a sweep, and ten seconds."""
BEFORE_SENDING, AFTER_SENDING, AFTER_ANSWER = MOMENTS = ("before sending", "after sending", "after the answer")
_ROUNDS: Final = 2
_PROVIDER_TAKES_S: Final = 5.0
_GIVES_UP_AFTER_S: Final = 200.0

_LEASED = "SELECT count(*) AS n FROM qbo.connections WHERE lease_id IS NOT NULL AND id = ANY (%(ids)s::bigint[])"
_RECOVERED = """
SELECT count(*) AS n FROM qbo.connections WHERE id = ANY (%(ids)s::bigint[]) AND last_refreshed_at > %(killed_at)s
"""
_TOOK = """
SELECT extract(epoch FROM last_refreshed_at - %(killed_at)s)::float AS seconds FROM qbo.connections
WHERE id = ANY (%(ids)s::bigint[])
"""


class _Bench:
    """Servers, provider, worker and beat; a context manager's worth of things, ended by whoever made the stack."""

    def __init__(self, things: ExitStack) -> None:
        servers = things.enter_context(embedded.start())
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE recovery")
        url = with_database(servers.database_url, "recovery")
        migrate(url)
        self.line = things.enter_context(FaultProxy(url))
        self.simulator: Simulator = things.enter_context(intuit_simulator.start(policy="grace"))
        variables = {
            "DATABASE_URL": self.line.url,
            "REDIS_URL": servers.redis_url,
            **self.simulator.settings(),
            "TOKEN_KEYS": f"k0:{sealing.new_key()}",
            "LOOKUP_KEY": sealing.new_key(),
        }
        settings = settings_of(variables | {"DATABASE_URL": url})
        self.db = Database(settings.database())
        things.callback(self.db.close)
        self.fleet = Fleet(self.db, settings, self.simulator)
        self.lease_s = settings.pace.lease.total_seconds()
        self.sweep_s = settings.sweep_seconds
        self.escrow = RedisEscrow(servers.redis_url)
        self.app = things.enter_context(Celery("another", broker=servers.redis_url, set_as_current=False))
        directory = Path(things.enter_context(tempfile.TemporaryDirectory(prefix="qbo-recovery-")))
        self.programs = Programs(directory, variables, servers.watch)
        things.callback(self.programs.close)

    def count(self, statement: str, **values: Any) -> int:
        return int(self.db.execute(statement, values).one().n)

    def start_refreshes(self, ids: Sequence[int]) -> None:
        for number in ids:
            self.app.send_task(REFRESH_CONNECTION, args=[number], queue=ADHOC)

    def hold(self, moment: str, ids: list[int]) -> None:
        """Start these refreshes, and return when all of them are at that moment."""
        if moment == BEFORE_SENDING:
            self._connect_all_threads()
            self.line.set(down=Way(stalled=True))
            self.start_refreshes(ids)
            eventually(lambda: self.count(_LEASED, ids=ids) == len(ids))
            return
        self.simulator.fault("latency", delay=_PROVIDER_TAKES_S)
        self.start_refreshes(ids)
        eventually(lambda: len(self.simulator.in_flight()) == len(ids))
        if moment == AFTER_ANSWER:
            self.line.set(up=Way(dropped=True))
            eventually(lambda: {copy.connection_id for copy in self.escrow.everything() if copy} >= set(ids))

    def _connect_all_threads(self) -> None:
        """Have each thread of the worker connect to the database, which it does with its first refresh."""
        ids = [each.id for each in self.fleet.connect(IN_FLIGHT)]
        self.simulator.fault("latency", delay=_PROVIDER_TAKES_S)
        self.start_refreshes(ids)
        eventually(lambda: len(self.simulator.in_flight()) == len(ids))
        self.simulator.clear_faults()
        eventually(lambda: self.count(_LEASED, ids=ids) == 0)

    def let_go(self) -> None:
        self.line.cut("reset")
        self.line.heal()
        self.simulator.clear_faults()

    def killed(self, worker: Program) -> Any:
        """Kill the worker and return when, by the database's clock."""
        worker.kill()
        return self.db.execute("SELECT clock_timestamp() AS now").one().now


def measure(*, say: Callable[[str], None]) -> dict[str, Any]:
    """Kill six workers, twenty refreshes in flight each, and return the seconds until each connection was refreshed."""
    with ExitStack() as things:
        bench = _Bench(things)
        scenes = [(moment, bench.fleet.connect(IN_FLIGHT)) for _ in range(_ROUNDS) for moment in MOMENTS]
        # Refreshed by nobody but the scene, or because an attempt at it died.
        bench.fleet.update(None, "next_refresh_at = now() + interval '1 day'")
        bench.programs.beat()
        kills = []
        for moment, connected in scenes:
            worker = bench.programs.ready_worker(threads=IN_FLIGHT)
            ids = [each.id for each in connected]
            bench.hold(moment, ids)
            kills.append((moment, connected, bench.killed(worker)))
            bench.let_go()
            say(f"Killed {moment}, {len(ids)} refreshes in flight.")
        bench.programs.ready_worker(threads=IN_FLIGHT)
        took = {moment: _seconds(bench, [each for each in kills if each[0] == moment]) for moment in MOMENTS}
        lost = sum(not bench.fleet.holds_the_live_token(each) for _, connected in scenes for each in connected)
        everything = [seconds for each in took.values() for seconds in each]
        return {
            "lease_s": bench.lease_s,
            "sweep_s": bench.sweep_s,
            "kills": len(kills),
            **{moment: _spread(seconds) for moment, seconds in took.items()},
            "all": _spread(everything),
            "bound_s": BOUND_S,
            "lost": lost,
            "overlapping_calls": bench.simulator.check().overlapping,
            "kept": not lost and max(everything) <= BOUND_S,
        }


def _seconds(bench: _Bench, kills: list[tuple[str, list[Connected], Any]]) -> list[float]:
    took = []
    for _, connected, killed_at in kills:
        values = {"ids": [each.id for each in connected], "killed_at": killed_at}

        def is_over(values: dict[str, Any] = values) -> bool:
            return bench.count(_RECOVERED, **values) == len(values["ids"])

        eventually(is_over, within_s=_GIVES_UP_AFTER_S, every_s=0.5)
        took += [row.seconds for row in bench.db.execute(_TOOK, values)]
    return took


def _spread(seconds: list[float]) -> str:
    return f"{len(seconds)} connections, median {statistics.median(seconds):.1f} s, max {max(seconds):.1f} s"
