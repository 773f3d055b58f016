"""What a host's processes get from a real worker, over the broker and the row alone."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import qbo_refresh
from qbo_refresh import SyncPaused, TemporarilyUnavailable
from tests.support.hosts import configured, host_variables
from tests.support.processes import PATIENCE_S, ROOT
from tests.support.roles import of_host
from tests.support.servers import MISSING, find_pgbouncer, pgbouncer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery import Celery

    from qbo_refresh.configuration import Configuration
    from tests.support.fleet import Connected, Fleet
    from tests.support.processes import Programs

MINUTES = timedelta(minutes=2)
PROCESSES, THREADS = 5, 100


@pytest.fixture
def client(environment: dict[str, str], another_app: Celery) -> Iterator[Configuration]:
    """Give a host's process that asks through its own Celery app."""
    with configured(environment, broker_url=None, app=another_app) as made:
        yield made


def expired(fleet: Fleet) -> Connected:
    """Make a connection whose access token has expired."""
    (made,) = fleet.connect()
    fleet.update(made.id, "next_refresh_at = now() + '1 day'")
    return made


def callers(variables: dict[str, str], connected: Connected, start: Path, what: str) -> list[dict[str, list[Any]]]:
    """Run the processes of a host and return what they say."""
    command = [sys.executable, "-m", "tests.system.callers", str(connected.id), str(THREADS), str(start), what]
    running = [
        subprocess.Popen(command, cwd=ROOT, env=host_variables(variables), stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for each in running:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    start.touch()
    return [json.loads(each.communicate(timeout=PATIENCE_S)[0]) for each in running]


@pytest.mark.usefixtures("client")
def test_an_expired_token_is_renewed_by_the_worker_and_a_fresh_one_asks_nobody(
    programs: Programs, fleet: Fleet
) -> None:
    connected = expired(fleet)
    programs.ready_worker()
    token = qbo_refresh.access_token(connected.id)
    assert token.version == 2
    assert qbo_refresh.access_token(connected.id).reveal() == token.reveal()
    assert fleet.simulator.check().refreshes == 1
    assert fleet.holds_the_live_token(connected)


def test_five_hundred_callers_of_one_expired_token_are_one_call_and_all_are_answered(
    programs: Programs, fleet: Fleet, environment: dict[str, str], tmp_path: Path
) -> None:
    connected = expired(fleet)
    fleet.simulator.fault("latency", delay=0.25)
    programs.ready_worker()
    said = callers(environment, connected, tmp_path / "start", "access")
    assert [each["errors"] for each in said] == [[]] * PROCESSES
    answered = [moment for each in said for moment in each["answered"]]
    assert len(answered) == PROCESSES * THREADS
    assert {version for each in said for version in each["versions"]} == {2}
    assert fleet.simulator.check().refreshes == 1
    committed = fleet.row(connected.id).last_refreshed_at.timestamp()
    late = [moment - committed for moment in answered]
    sys.stdout.write(f"answered after the commit: median {statistics.median(late):.3f} s, last {max(late):.3f} s\n")
    assert statistics.median(late) < 0.15


def test_a_token_that_five_hundred_reject_is_renewed_once(
    programs: Programs, fleet: Fleet, environment: dict[str, str], tmp_path: Path
) -> None:
    connected = expired(fleet)
    programs.ready_worker()
    with configured(environment):
        qbo_refresh.access_token(connected.id)
    fleet.let_pass(MINUTES)
    said = callers(environment, connected, tmp_path / "start", "reject")
    assert [each["errors"] for each in said] == [[]] * PROCESSES
    assert {version for each in said for version in each["versions"]} == {3}
    assert fleet.simulator.check().refreshes == 2


@pytest.mark.usefixtures("client")
def test_a_grant_that_was_revoked_is_said_at_once_and_then_pauses(programs: Programs, fleet: Fleet) -> None:
    connected = expired(fleet)
    fleet.simulator.revoke(connected.realm_id)
    programs.ready_worker(variables={"CONFIRM_AFTER_SECONDS": "0"})
    with pytest.raises(TemporarilyUnavailable) as caught:
        qbo_refresh.access_token(connected.id)
    assert caught.value.reason in {"suspect", "invalid_grant"}
    fleet.let_pass(MINUTES)
    while fleet.row(connected.id).status != "needs_reauth":
        with pytest.raises((TemporarilyUnavailable, SyncPaused)):
            qbo_refresh.access_token(connected.id)
        fleet.let_pass(MINUTES)
    with pytest.raises(SyncPaused, match="reauth"):
        qbo_refresh.access_token(connected.id)


@pytest.mark.usefixtures("client")
def test_without_a_worker_it_waits_no_longer_than_it_was_told(fleet: Fleet) -> None:
    connected = expired(fleet)
    with pytest.raises(TemporarilyUnavailable) as caught:
        qbo_refresh.access_token(connected.id, timeout=0.3)
    assert caught.value.reason == "no_answer"


@pytest.mark.usefixtures("client")
def test_a_hosts_own_app_may_use_pickle_and_make_no_queues(
    programs: Programs, fleet: Fleet, another_app: Celery
) -> None:
    another_app.conf.update(task_serializer="pickle", task_create_missing_queues=False, task_default_queue="own")
    connected = expired(fleet)
    programs.ready_worker()
    assert qbo_refresh.access_token(connected.id).version == 2


@pytest.mark.skipif(find_pgbouncer() is None, reason=MISSING)
def test_everything_works_behind_pgbouncer(
    programs: Programs, fleet: Fleet, environment: dict[str, str], tmp_path: Path
) -> None:
    connected = expired(fleet)
    programs.ready_worker()
    with pgbouncer(of_host(environment["DATABASE_URL"]), default_pool_size=5, max_client_conn=50) as url:
        assert url is not None
        said = callers(environment | {"DATABASE_URL": url}, connected, tmp_path / "start", "access")
    assert [each["errors"] for each in said] == [[]] * PROCESSES
    assert {version for each in said for version in each["versions"]} == {2}
