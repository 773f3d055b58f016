"""A host that is a Django project: its web process and its prefork worker beside ours, on one PostgreSQL."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.hosts import host_variables
from tests.support.processes import ROOT, Program, Programs, eventually, wait_until_ready
from tests.support.roles import HOST, as_user, as_worker
from tests.system.conftest import assert_without_secrets
from worker.embedded.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from tests.support.fleet import Connected, Fleet
    from worker.embedded import Servers

PROJECT = "tests.support.django_host"
MANY = 20


@pytest.fixture
def sql(database_url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Give a way to the database in which Django's table is, and make that."""
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(
            "CREATE TABLE public.django_host_run"
            " (id bigserial PRIMARY KEY, connection_id bigint NOT NULL, what varchar(100) NOT NULL UNIQUE)"
        )
        yield lambda statement: db.execute(statement.encode()).fetchall()
        db.execute("DROP TABLE public.django_host_run")


@pytest.fixture
def project(
    owner_environment: dict[str, str],
    tmp_path: Path,
    session_servers: Servers,
    fleet: Fleet,
    sql: object,
) -> Iterator[Programs]:
    """Give the means to start the project's processes, which hold nothing of the worker's secrets."""
    assert sql
    directory = tmp_path / "project"
    directory.mkdir()
    known = host_variables(as_worker(owner_environment))
    own = {
        "HOST_DATABASE_URL": owner_environment["DATABASE_URL"],
        "HOST_BROKER_URL": as_user(owner_environment["REDIS_URL"], HOST),
    }
    own |= {name: known[name] for name in ("QBO_DATABASE_URL", "QBO_CLIENT_KEYS")}
    running = Programs(directory, own | {"PYTHONUNBUFFERED": "1"}, session_servers.watch)
    yield running
    running.close()
    assert_without_secrets(running.output(), fleet.simulator)


@pytest.fixture
def page(project: Programs, tmp_path: Path, session_servers: Servers) -> Callable[[str], str]:
    """Give a function that asks the project's web process for a page."""
    port, log = free_port(), tmp_path / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # One thread, so that CONN_MAX_AGE means something.
            [sys.executable, "-m", "django", "runserver", f"127.0.0.1:{port}", "--noreload", "--nothreading"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=project.environment | {"DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings"},
            start_new_session=True,
        )
    session_servers.watch(process.pid)
    web = Program(process, log)
    project.started.append(web)
    web.wait_for("Starting development server")

    def ask(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def answers() -> bool:
        try:
            return ask("") == "Django"
        except urllib.error.URLError:
            return False

    eventually(answers)
    return ask


def expired(fleet: Fleet, count: int) -> list[Connected]:
    """Make connections that are refreshed only if somebody asks."""
    made = fleet.connect(count)
    for each in made:
        fleet.update(each.id, "next_refresh_at = now() + '1 day'")
    return made


def test_django_views_and_prefork_syncs_get_tokens_inside_and_outside_transactions(
    programs: Programs,
    project: Programs,
    page: Callable[[str], str],
    fleet: Fleet,
    sql: Callable[[str], list[Any]],
) -> None:
    healthy, paused, third, fourth = expired(fleet, 4)
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) VALUES (%(id)s, 'operator')", {"id": paused.id}
    )
    programs.ready_worker()
    host = project.start(
        "worker", "-P", "prefork", "-c", "2", "-Q", "host", "-n", "django@%h", "-l", "INFO", app=PROJECT
    )
    wait_until_ready(host)

    # Both children inherit what the parent had connected before the fork, and make connections of their own.
    page(f"send/{healthy.id}/{MANY}")
    ran = r"sync \d+ in (\d+) had version 2"

    def runs(of: Connected) -> list[str]:
        return [
            what
            for connection_id, what in sql("SELECT connection_id, what FROM public.django_host_run")
            if connection_id == of.id
        ]

    eventually(lambda: len(runs(healthy)) == MANY)
    found = [re.fullmatch(ran, what) for what in runs(healthy)]
    assert all(found)
    assert len({each[1] for each in found if each}) == 2
    assert fleet.simulator.check().refreshes == 1

    page(f"send/{paused.id}/3")
    eventually(lambda: sql("SELECT connection_id, runs FROM qbo.missed_runs") == [(paused.id, 3)])
    assert runs(paused) == []

    # A view within ATOMIC_REQUESTS waits for the worker, which its transaction does not keep from the row.
    assert page(f"token/{third.id}") == "version 2"
    assert runs(third) == ["asked"]
    assert page(f"rolled-back/{fourth.id}") == "version 2"
    assert runs(fourth) == []
    assert fleet.row(fourth.id).token_version == 2

    assert project.says(r"ERROR|Traceback|Retry") == []
    used = sql("SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1")
    assert {"django", "qbo-refresh-client"} <= {row[0] for row in used}
