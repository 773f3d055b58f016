"""What another Celery app can ask of the worker by task name, over the broker and the result backend alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from celery import Celery

from tests.conftest import settings_of, with_database
from tests.support.fleet import Fleet
from tests.support.processes import PATIENCE_S, Program, Programs, eventually
from tests.support.roles import as_worker
from tests.system.conftest import assert_without_secrets
from worker.database import Database
from worker.queues import ADHOC, DISPATCH_DUE, REFRESH_CONNECTION, REFRESH_DUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery.result import AsyncResult

    from intuit_simulator import StartedSimulator
    from worker.embedded import Servers


@dataclass(frozen=True, slots=True)
class Scene:
    """One worker, and another app beside it."""

    worker: Program
    fleet: Fleet
    app: Celery
    valkey: redis.Redis

    def ask(self, *args: object, **kwargs: object) -> AsyncResult[Any]:
        """Ask for a refresh as a host would."""
        return self.app.send_task(REFRESH_CONNECTION, args=list(args), kwargs=kwargs, queue=ADHOC)

    def answer(self, *args: object, **kwargs: object) -> Any:
        """Ask, and wait for the answer."""
        return self.ask(*args, **kwargs).get(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def scene(
    session_servers: Servers,
    session_simulator: StartedSimulator,
    _databases: tuple[str, str],
    _keys: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """Give one worker for all tests of this module: they add connections and change nothing else."""
    session_simulator.reset()
    with psycopg.connect(session_servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE adhoc TEMPLATE template_qbo")
    url = with_database(session_servers.database_url, "adhoc")
    variables = {
        "DATABASE_URL": url,
        "REDIS_URL": session_servers.redis_url,
        **session_simulator.settings(),
        "LOG_LEVEL": "DEBUG",
        **_keys,
    }
    programs = Programs(tmp_path_factory.mktemp("adhoc"), as_worker(variables), session_servers.watch, forked=True)
    config = settings_of(variables)
    db = Database(config.database())
    with (
        redis.Redis.from_url(session_servers.redis_url, decode_responses=True) as valkey,
        Celery("another", broker=config.redis(), backend=config.redis(), set_as_current=False) as app,
    ):
        valkey.flushall()
        try:
            worker = programs.ready_worker(threads=8)
            yield Scene(worker, Fleet(db, config, session_simulator), app, valkey)
        finally:
            programs.close()
            db.close()
    assert_without_secrets(programs.output(), session_simulator)


def test_the_answer_is_a_small_dict(scene: Scene) -> None:
    (connected,) = scene.fleet.connect()
    assert scene.answer(connected.id) == {
        "connection_id": connected.id,
        "outcome": "refreshed",
        "reason": None,
        "rotated": True,
    }
    assert scene.fleet.holds_the_live_token(connected)


def test_a_hundred_at_once_are_one_call_and_all_are_answered(scene: Scene) -> None:
    (connected,) = scene.fleet.connect()
    held = scene.fleet.simulator.fault("latency", delay=0.5, realm_ids=connected.realm_id)
    before = scene.fleet.simulator.check().refreshes
    asked = [scene.ask(connected.id) for _ in range(100)]
    answers = [each.get(timeout=PATIENCE_S) for each in asked]
    scene.fleet.simulator.clear_fault(held)
    assert scene.fleet.simulator.check().refreshes == before + 1
    refreshed = [each for each in answers if each["outcome"] == "refreshed"]
    assert len(refreshed) == 1
    assert {each["reason"] for each in answers if each not in refreshed} <= {"fresh", "in_progress"}


def test_what_is_young_enough_is_left_alone(scene: Scene) -> None:
    (connected,) = scene.fleet.connect()
    assert scene.answer(connected.id)["outcome"] == "refreshed"
    again = scene.answer(connected.id)
    assert (again["outcome"], again["reason"]) == ("skipped", "fresh")
    assert scene.answer(connected.id, max_age=0, min_ttl=300)["outcome"] == "skipped"
    assert scene.answer(connected.id, max_age=0)["outcome"] == "refreshed"


def test_what_cannot_be_refreshed_is_answered_with_why(scene: Scene) -> None:
    frozen, gone = scene.fleet.connect(2)
    scene.fleet.update(frozen.id, "frozen = true")
    scene.fleet.update(gone.id, "status = 'needs_reauth', next_refresh_at = NULL")
    before = scene.fleet.simulator.check().refreshes
    for connection_id, why in ((frozen.id, "frozen"), (gone.id, "needs_reauth"), (10**30, "unknown_connection")):
        assert scene.answer(connection_id) == {
            "connection_id": connection_id,
            "outcome": "skipped",
            "reason": why,
            "rotated": None,
        }
    assert scene.fleet.simulator.check().refreshes == before


@pytest.mark.parametrize("connection_id", ["7", None, True, 7.0])
def test_what_is_no_id_fails_with_a_sentence(scene: Scene, connection_id: object) -> None:
    with pytest.raises(Exception, match="connection_id must be a number"):
        scene.answer(connection_id)
    assert scene.worker.is_running


def test_a_sweeps_message_keeps_no_result_and_redis_and_logs_hold_no_secret(scene: Scene) -> None:
    swept = scene.fleet.connect(5)
    (asked,) = scene.fleet.connect()
    before = set(scene.valkey.scan_iter("celery-task-meta-*"))
    answer = scene.ask(asked.id)
    assert answer.get(timeout=PATIENCE_S)["outcome"] == "refreshed"
    scene.app.send_task(DISPATCH_DUE, queue=ADHOC, ignore_result=True)
    eventually(lambda: len(scene.worker.says(rf"{REFRESH_DUE}\[\S+\] succeeded")) == len(swept))
    assert all(scene.fleet.row(each.id).last_outcome == "refreshed" for each in swept)
    assert set(scene.valkey.scan_iter("celery-task-meta-*")) - before == {f"celery-task-meta-{answer.id}"}
    everything = "\n".join(f"{key} {contents(scene.valkey, key)}" for key in scene.valkey.scan_iter())
    assert "qbo:escrow:" in everything, "the sealed copies must be among what was looked at"
    for text in (everything, scene.worker.output()):
        assert_without_secrets(text, scene.fleet.simulator)
        for each in (*swept, asked):
            assert each.refresh_token not in text


def contents(valkey: redis.Redis, key: str) -> object:
    """Return what a key of any type holds."""
    read: dict[str, Callable[[], object]] = {
        "string": lambda: valkey.get(key),
        "list": lambda: valkey.lrange(key, 0, -1),
        "hash": lambda: valkey.hgetall(key),
        "set": lambda: valkey.smembers(key),
        "zset": lambda: valkey.zrange(key, 0, -1),
        "none": lambda: None,
    }
    return read[str(valkey.type(key))]()
