"""SyncTask on real Celery workers of a host, in the pools that hosts use."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group

from tests.support import events
from tests.support.hosts import host_variables
from tests.support.processes import PATIENCE_S, ROOT, Program, eventually
from tests.support.roles import HOST, as_user
from tests.system.conftest import assert_without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis
    from celery import Celery

    from tests.support.fleet import Connected, Fleet
    from tests.support.processes import Programs
    from worker.embedded import Servers

OPTIONS = ("-E", "-Q", "host", "-n", "host@%h", "-l", "INFO")
POOLS = [
    ("-P", "prefork", "-c", "2"),
    ("-P", "threads", "-c", "4"),
    pytest.param(
        ("-P", "gevent", "-c", "8"),
        marks=pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed"),
    ),
]
AWAY = {"QBO_DATABASE_URL": "postgresql://user:password@127.0.0.1:1/name"}


class Host:
    """A worker of the host's and what its tasks have written down."""

    def __init__(self, program: Program, notes: Path, app: Celery) -> None:
        self.program, self.app, self._notes = program, app, notes

    def notes(self) -> list[str]:
        """Return how far each run got."""
        return self._notes.read_text().splitlines() if self._notes.exists() else []

    def send(self, name: str, *args: object, **kwargs: object) -> Any:
        """Send one of its tasks."""
        return self.app.send_task(name, args=args, kwargs=kwargs, queue="host")


@pytest.fixture
def start_host(
    environment: dict[str, str], tmp_path: Path, session_servers: Servers, fleet: Fleet, another_app: Celery
) -> Iterator[Callable[..., Host]]:
    """Give a function that starts a worker of the host's; the argument is its pool."""
    started: list[Program] = []

    def start(pool: tuple[str, ...], **variables: str) -> Host:
        log, notes = tmp_path / "host.log", tmp_path / "notes"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.system.host_app", "worker", *pool, *OPTIONS],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HOST_NOTES": str(notes)}
                | {"HOST_BROKER_URL": as_user(environment["REDIS_URL"], HOST)}
                # It asks through the app of the task that runs, as hosts that share the broker do.
                | {name: host_variables(environment)[name] for name in ("QBO_DATABASE_URL", "QBO_CLIENT_KEYS")}
                | variables,
                start_new_session=True,
            )
        session_servers.watch(process.pid)
        started.append(Program(process, log))
        started[-1].wait_for(r"@\S+ ready\.")
        return Host(started[-1], notes, another_app)

    yield start
    for each in started:
        each.kill()
        assert_without_secrets(each.output(), fleet.simulator)


def hold(fleet: Fleet, connected: Connected, reason: str = "operator") -> None:
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) VALUES (%(id)s, %(reason)s)",
        {"id": connected.id, "reason": reason},
    )


def missed(fleet: Fleet, connected: Connected) -> int:
    row = fleet.db.execute(
        "SELECT runs FROM qbo.missed_runs WHERE connection_id = %(id)s", {"id": connected.id}
    ).one_or_none()
    return row.runs if row else 0


@pytest.mark.parametrize("pool", POOLS)
def test_a_paused_run_is_skipped_before_the_body_counted_and_shown_as_ignored(
    pool: tuple[str, ...], start_host: Callable[..., Host], programs: Programs, fleet: Fleet, another_app: Celery
) -> None:
    healthy, paused = fleet.connect(2)
    hold(fleet, paused)
    host = start_host(pool)
    programs.ready_worker()
    seen: list[dict[str, Any]] = []
    there: list[object] = []
    with events.heard(another_app, {"task-ignored": seen.append, "worker-heartbeat": there.append}):
        eventually(lambda: there)  # what is published before it listens is lost
        # Five at once of one connection, and the healthy one's token has to be renewed by the worker first.
        runs = [host.send("host.sync", paused.id) for _ in range(5)]
        assert host.send("host.sync", healthy.id).get(timeout=PATIENCE_S) == "version 2"
        eventually(lambda: missed(fleet, paused) == 5)
        eventually(lambda: {each.state for each in runs} == {"IGNORED"})
        eventually(lambda: len(seen) == 5)
    assert {event["uuid"] for event in seen} == {each.id for each in runs}
    assert {(event["reason"], event["result"]) for event in seen} == {("operator", "operator")}
    assert host.notes() == [f"began {healthy.id}", f"synced {healthy.id}"]
    assert host.program.says(r"ERROR|Traceback") == []


@pytest.mark.parametrize("pool", POOLS)
def test_a_pause_in_mid_sync_ends_the_run_cleanly_though_the_host_retries_whatever_fails(
    pool: tuple[str, ...], start_host: Callable[..., Host], fleet: Fleet, valkey: redis.Redis
) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute(
        "INSERT INTO qbo.external_ids (external_id, connection_id) VALUES ('acme', %(id)s)", {"id": connected.id}
    )
    host = start_host(pool)
    run = host.send("host.sync_pausing", "began", company="external:acme")
    eventually(lambda: valkey.llen("host:reached"))
    hold(fleet, connected, "reauth")
    valkey.lpush("host:go", "on")
    eventually(lambda: run.state == "IGNORED")
    assert host.notes() == ["began external:acme"]
    assert missed(fleet, connected) == 1
    assert host.program.says(r"ERROR|Traceback|Retry") == []


def test_in_a_chord_a_paused_run_does_not_keep_the_others_waiting(
    start_host: Callable[..., Host], programs: Programs, fleet: Fleet
) -> None:
    healthy, paused = fleet.connect(2)
    hold(fleet, paused)
    host = start_host(POOLS[0])
    programs.ready_worker()
    header = [host.app.signature("host.sync", args=(each.id,), queue="host") for each in (healthy, paused)]
    body = host.app.signature("host.total", queue="host")
    assert chord(header, app=host.app)(body).get(timeout=PATIENCE_S) == ["version 2", None]
    assert missed(fleet, paused) == 1


def test_a_chain_that_ends_early_in_a_chord_does_not_keep_the_others_waiting(
    start_host: Callable[..., Host], programs: Programs, fleet: Fleet
) -> None:
    healthy, paused = fleet.connect(2)
    hold(fleet, paused)
    host = start_host(POOLS[0])
    programs.ready_worker()

    def task(name: str, *args: int, immutable: bool = True) -> Any:
        return host.app.signature(f"host.{name}", args=args, queue="host", immutable=immutable)

    def total() -> Any:
        return task("total", immutable=False)

    def many(kind: Any, *after: Any) -> Any:
        return kind([task("sync_anyway", healthy.id), task("sync_anyway", healthy.id)], *after, app=host.app)

    # Seen to fail, waiting for ever: the chord of a last link that is a chord or a group stands further in.
    two = chain(task("sync_anyway", healthy.id), task("sync_anyway", healthy.id), app=host.app)
    ends = [
        task("sync", healthy.id),
        many(chord, total()),
        many(chord, many(chord, total())),
        many(group),
        group([two, task("sync_anyway", healthy.id)], app=host.app),
    ]
    runs = []
    for end in ends:
        ends_early = chain(task("sync", paused.id), task("sync_anyway", healthy.id), end, app=host.app)
        runs.append(chord([ends_early, task("sync", healthy.id)], app=host.app)(total()))
    found = [run.get(timeout=PATIENCE_S) for run in runs]
    assert found == [[None, "version 2"]] * 3 + [[[None, None], "version 2"]] * 2
    assert missed(fleet, paused) == 5
    assert f"anyway {healthy.id}" not in host.notes()


def test_in_a_chord_a_run_that_is_skipped_without_postgresql_does_not_keep_the_others_waiting(
    start_host: Callable[..., Host], fleet: Fleet
) -> None:
    (connected,) = fleet.connect()
    host = start_host(POOLS[0], **AWAY)
    header = [
        host.app.signature(f"host.{name}", args=(connected.id,), queue="host")
        for name in ("sync_anyway", "sync_or_not")
    ]
    body = host.app.signature("host.total", queue="host")
    assert chord(header, app=host.app)(body).get(timeout=PATIENCE_S) == [None, None]
    assert host.notes() == [f"anyway {connected.id}"]


@pytest.mark.parametrize(("name", "variables"), [("sync", {}), ("sync_or_not", AWAY)], ids=["paused", "away"])
def test_a_run_that_is_skipped_ends_its_chain(
    start_host: Callable[..., Host], fleet: Fleet, *, name: str, variables: dict[str, str]
) -> None:
    healthy, paused = fleet.connect(2)
    hold(fleet, paused)
    host = start_host(("-P", "prefork", "-c", "1"), **variables)
    skipped = host.app.signature(f"host.{name}", args=(paused.id,), queue="host")
    after = host.app.signature("host.sync_anyway", args=(healthy.id,), queue="host", immutable=True)
    run: Any = chain(skipped, after, app=host.app).apply_async().parent
    eventually(lambda: run.state == "IGNORED")
    # One at a time: what the skipped run sent at its end would come before the second of these.
    for _ in range(2):
        host.send("host.sync_anyway", healthy.id).get(timeout=PATIENCE_S)
    assert host.notes() == [f"anyway {healthy.id}"] * 2


def test_without_postgresql_each_task_does_what_it_is_set_to_and_by_default_comes_again(
    start_host: Callable[..., Host], fleet: Fleet
) -> None:
    (connected,) = fleet.connect()
    host = start_host(POOLS[1], **AWAY)
    later, skipped = host.send("host.sync", connected.id), host.send("host.sync_or_not", connected.id)
    host.send("host.sync_anyway", connected.id).get(timeout=PATIENCE_S)
    eventually(lambda: later.state == "RETRY")
    eventually(lambda: skipped.state == "IGNORED")
    assert host.notes() == [f"anyway {connected.id}"]
    host.program.wait_for(r"host\.sync\[\S+\] retry: database_unavailable")
    assert missed(fleet, connected) == 0
