from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests

from qbo_refresh import sealing
from tests.conftest import with_database
from tests.support.processes import PATIENCE_S, Programs, eventually
from worker.embedded.processes import free_port
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
    programs: Programs, environment: dict[str, str]
) -> None:
    worker = programs.worker(variables={"DATABASE_URL": with_database(environment["DATABASE_URL"], "postgres")})
    assert worker.exit_code() == 2, worker.output()
    assert "run `qbo-refresh migrate`" in worker.output()
    assert "Traceback" not in worker.output()


def test_a_worker_that_would_refuse_its_own_messages_ends_with_status_2_and_one_sentence(programs: Programs) -> None:
    worker = programs.start("worker", "-P", "threads", app="tests.support.added_to")
    assert worker.exit_code() == 2, worker.output()
    assert re.search(r"(?m)^Celery \S+ publishes messages that this worker refuses \(calls\): ", worker.output())
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("variable", ["REDIS_URL", "SWEEP_SECONDS"])
def test_a_beat_with_a_missing_or_wrong_setting_ends_with_status_2_and_one_sentence(
    programs: Programs, variable: str
) -> None:
    beat = programs.beat(variables={variable: "" if variable == "REDIS_URL" else "soon"})
    assert beat.exit_code() == 2, beat.output()
    (sentence,) = beat.output().splitlines()
    assert variable in sentence


def test_flower_with_a_login_that_is_none_ends_and_a_beat_does_not_care(programs: Programs) -> None:
    # Seen to fail: Flower ran, and let nobody in.
    variables = {"FLOWER_BASIC_AUTH": "canary"}
    flower = programs.start("flower", f"--port={free_port()}", variables=variables)
    beat = programs.beat(variables=variables)
    assert flower.exit_code() == 2, flower.output()
    (sentence,) = flower.output().splitlines()
    assert sentence.startswith("FLOWER_BASIC_AUTH is not a user and a password")
    assert "canary" not in sentence
    beat.wait_for("beat: Starting")


def test_flower_wants_the_login_that_has_our_prefix(programs: Programs) -> None:
    # Seen to fail: Flower knows its own name of the variable alone, and let everybody in.
    port = free_port()
    variables = {"QBO_FLOWER_BASIC_AUTH": "operator:canary", "FLOWER_READ_ONLY": "true"}
    programs.start("flower", "--address=127.0.0.1", f"--port={port}", variables=variables)

    def answer() -> int:
        with suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/workers", timeout=10).status_code
        return 0

    assert eventually(answer) == HTTPStatus.UNAUTHORIZED


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


def test_a_beat_with_a_wrong_password_of_redis_says_so_at_once_and_ends(programs: Programs, redis_url: str) -> None:
    # Fails without `_ask_broker`: Celery's beat is silent until its first message, a minute later, and then goes on.
    beat = programs.beat(variables={"REDIS_URL": wrong_password(redis_url)})
    assert beat.exit_code() == 2, beat.output()
    assert "Redis at REDIS_URL refuses the user or the password: correct them." in beat.output()
    assert "Traceback" not in beat.output()


def test_a_beat_waits_for_a_redis_that_is_away_and_says_so_at_once(programs: Programs) -> None:
    beat = programs.beat(variables={"REDIS_URL": "redis://127.0.0.1:1/0"})
    beat.wait_for("Redis at REDIS_URL cannot be reached: .+ Waiting for it")
    assert beat.is_running


def wrong_password(redis_url: str) -> str:
    parts = urlsplit(redis_url)
    return parts._replace(netloc=f":wrong-password@{parts.hostname}:{parts.port}").geturl()


def test_a_worker_names_everything_that_is_missing_at_once(programs: Programs) -> None:
    names = ("DATABASE_URL", "TOKEN_KEYS", "LOOKUP_KEY", "INTUIT_CLIENT_SECRET")
    worker = programs.worker(variables=dict.fromkeys(names, ""))
    assert worker.exit_code() == 2
    said = worker.output()
    assert all(f"{name} " in said for name in names)
    assert "Traceback" not in said


def test_rows_that_wait_for_a_key_go_when_a_worker_starts_with_it(
    programs: Programs, fleet: Fleet, another_app: Celery
) -> None:
    connected = fleet.connect(3)
    keyless = programs.ready_worker(variables={"TOKEN_KEYS": f"another:{sealing.new_key()}"})
    for each in connected:
        answer = another_app.send_task(REFRESH_CONNECTION, args=[each.id], queue=ADHOC)
        assert answer.get(timeout=PATIENCE_S)["outcome"] == "unreadable"
    keyless.kill()
    pace = {"SWEEP_SECONDS": "0.5"}
    programs.worker(variables=pace).wait_for("3 connections that waited for a key are tried again")
    programs.beat(variables=pace)
    eventually(lambda: fleet.simulator.check().refreshes == 3)
    eventually(lambda: all(fleet.holds_the_live_token(each) for each in connected))
