from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Programs, eventually
from tests.support.servers import MISSING, find_pgbouncer, pgbouncer

if TYPE_CHECKING:
    from tests.support.fleet import Fleet

pytestmark = pytest.mark.skipif(find_pgbouncer() is None, reason=MISSING)

# FULL=1 runs the number that docs and FAULTS.md speak of; it takes minutes.
REFRESHES = 10_000 if os.environ.get("FULL") else 600
THREADS = 100
POOL = 5


@pytest.mark.timeout(600 if os.environ.get("FULL") else 120)
def test_row_34_a_hundred_threads_behind_a_pgbouncer_with_five_connections_refresh_without_an_error(
    programs: Programs, fleet: Fleet, environment: dict[str, str]
) -> None:
    pace = {"REFRESH_PER_MINUTE": "600000", "SWEEP_SECONDS": "1", "LOG_LEVEL": "WARNING"}
    with fleet.db.transaction():
        fleet.connect(REFRESHES)
    with pgbouncer(environment["DATABASE_URL"], default_pool_size=POOL, max_client_conn=2 * THREADS) as url:
        assert url is not None
        worker = programs.ready_worker(threads=THREADS, variables={"DATABASE_URL": url, **pace})
        beat = programs.beat(variables=pace)
        count = "SELECT count(*) AS n FROM qbo.connections WHERE token_version = 2 AND status = 'active'"
        eventually(lambda: fleet.db.execute(count).one().n == REFRESHES, within_s=500, every_s=0.5)
        beat.terminate()
        assert beat.exit_code() == 0
        worker.terminate()
        assert worker.exit_code() == 0
        backends = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'qbo-refresh'"
        assert fleet.db.execute(backends).one().n <= POOL + 1, "the test itself is one"
    assert fleet.simulator.check().calls_per_grant == {1: REFRESHES}
    assert fleet.simulator.check().answers == {"200": REFRESHES}
    outcomes = fleet.db.execute("SELECT outcome, count(*) AS n FROM qbo.refresh_attempts GROUP BY outcome").all()
    assert [(row.outcome, row.n) for row in outcomes] == [("refreshed", REFRESHES)]
    # A message whose mark had lapsed, or a sweep's, may come while the worker stops, and is given back.
    given_back = re.compile("stopping|Requeuing undeliverable message")
    assert [line for line in programs.says(r"(?:ERROR|WARNING)/.*") if not given_back.search(line)] == []
