from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import with_database
from tests.support.processes import PATIENCE_S, Programs, eventually
from worker.queues import ADHOC, REFRESH_CONNECTION

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.fleet import Fleet
    from worker.embedded import Servers


def test_a_worker_waits_for_a_database_that_is_away_says_so_and_then_works(
    programs: Programs, fleet: Fleet, session_servers: Servers
) -> None:
    pace = {"SWEEP_SECONDS": "0.5"}
    (connected,) = fleet.connect()
    session_servers.stop_postgres()
    try:
        worker, beat = programs.worker(variables=pace), programs.beat(variables=pace)
        worker.wait_for("PostgreSQL at DATABASE_URL cannot be reached: .+ Waiting for it")
        beat.wait_for("Sending due task")
        assert (worker.is_running, beat.is_running) == (True, True)
        assert "Traceback" not in programs.output()
    finally:
        session_servers.start_postgres()
    eventually(lambda: fleet.simulator.check().refreshes == 1)
    fleet.db.drop_connection()
    eventually(lambda: fleet.holds_the_live_token(connected))


def test_a_worker_on_a_database_without_tables_ends_with_status_2_and_one_sentence(
    programs: Programs, session_servers: Servers
) -> None:
    worker = programs.worker(variables={"DATABASE_URL": with_database(session_servers.database_url, "postgres")})
    assert worker.exit_code() == 2, worker.output()
    assert "run `qbo-refresh migrate`" in worker.output()
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("variable", ["REDIS_URL", "SWEEP_SECONDS"])
def test_a_beat_with_a_missing_or_wrong_setting_ends_with_status_2_and_one_sentence(
    programs: Programs, variable: str
) -> None:
    beat = programs.beat(variables={variable: "" if variable == "REDIS_URL" else "soon"})
    assert beat.exit_code() == 2, beat.output()
    (sentence,) = beat.output().splitlines()
    assert variable in sentence


def test_a_worker_whose_database_goes_away_while_it_runs_refreshes_again_afterwards(
    programs: Programs, fleet: Fleet, session_servers: Servers, another_app: Celery
) -> None:
    (connected,) = fleet.connect()
    worker = programs.ready_worker()
    session_servers.kill_postgres()
    try:
        asked = another_app.send_task(REFRESH_CONNECTION, args=[connected.id], queue=ADHOC)
        worker.wait_for("Task worker.tasks.refresh_connection.* received")
    finally:
        session_servers.start_postgres()
    assert asked.get(timeout=PATIENCE_S)["outcome"] == "refreshed"
    fleet.db.drop_connection()
    assert fleet.holds_the_live_token(connected)
