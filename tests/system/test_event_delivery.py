"""Events on their way to a host's own Celery worker, over a broker of its own."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis

from qbo_refresh.event_message import EventMessage
from qbo_refresh.secret import Secret
from tests.support.host_app import QUEUE, RECEIVED, TASK
from tests.support.processes import Program, Programs, eventually
from worker import embedded, event_broker, health, holding
from worker.event_broker import BrokerTrouble
from worker.settings import EventTarget
from worker.store import outbox
from worker.store.outbox import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from tests.support.fleet import Connected, Fleet
    from worker.embedded import Servers
    from worker.settings import Settings


@pytest.fixture(scope="module")
def host_servers() -> Iterator[Servers]:
    """Give the host's own Valkey."""
    with embedded.start(postgres=False) as running:
        yield running


@pytest.fixture
def host_broker(host_servers: Servers) -> str:
    """Give the host's broker, running and empty."""
    host_servers.start_valkey()
    with redis.Redis.from_url(host_servers.redis_url) as client:
        client.flushall()
    return host_servers.redis_url


def variables(broker_url: str, task: str = TASK) -> dict[str, str]:
    return {
        "SWEEP_SECONDS": "0.5",
        "EVENT_TASK": task,
        "EVENT_QUEUE": QUEUE,
        "EVENT_BROKER_URL": broker_url,
        "RECONNECT_URL": "https://host.example/reconnect/{external_id}",
    }


def host_worker(programs: Programs, broker_url: str) -> Program:
    options = ("-P", "solo", "-l", "INFO", "-n", "host@%h", "--without-mingle", "--without-gossip")
    return programs.start("worker", *options, app="tests.support.host_app", variables={"HOST_BROKER": broker_url})


def received(broker_url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(broker_url) as client:
        return [json.loads(each) for each in client.lrange(RECEIVED, 0, -1)]


def sequences(came: list[dict[str, Any]], connected: Connected) -> list[int]:
    """Return a connection's sequence numbers as they came first."""
    mine = [event["sequence"] for event in came if event["connection_id"] == connected.id]
    return list(dict.fromkeys(mine))


def pause_and_resume(fleet: Fleet, connected: list[Connected], times: int) -> None:
    ids = [each.id for each in connected]
    for _ in range(times):
        holding.hold(fleet.db, ids)
        holding.resume(fleet.db, ids)


def test_row_30_events_wait_for_the_hosts_broker_in_order_and_refreshes_do_not_wait_for_them(
    programs: Programs, fleet: Fleet, settings: Settings, host_servers: Servers, host_broker: str
) -> None:
    connected = fleet.connect(6)
    delivering = variables(host_broker)
    host_servers.stop_valkey()
    pause_and_resume(fleet, connected, 3)
    worker = programs.ready_worker(threads=2, variables=delivering)
    programs.beat(variables=delivering)
    worker.wait_for("events.waiting reason=unreachable failures=2")
    for version in (2, 3):
        fleet.update(None, "next_refresh_at = now()")
        began = time.monotonic()
        eventually(lambda: all(fleet.row(each.id).token_version == version for each in connected))  # noqa: B023
        assert time.monotonic() - began < 8, "two threads, one of them at a broker that is away"
    pause_and_resume(fleet, connected, 1)
    fleet.db.execute("UPDATE qbo.outbox SET created_at = created_at - interval '61 min'")
    told = settings.model_copy(update={"event_task": TASK})
    assert any("Events have been waiting" in each for each in health.problems(health.take(fleet.db, told)))
    host_servers.start_valkey()
    host_worker(programs, host_broker)
    eventually(lambda: len({event["id"] for event in received(host_broker)}) == 6 * 8)
    came = received(host_broker)
    assert [sequences(came, each) for each in connected] == [list(range(1, 9))] * 6
    assert [event["type"] for event in came if event["connection_id"] == connected[0].id][:2] == [
        "sync.paused",
        "sync.resumed",
    ]
    eventually(lambda: outbox.read(fleet.db, Wanted(undelivered=True), limit=1) == [])


def test_row_30_a_verdict_comes_to_the_host_with_its_link(programs: Programs, fleet: Fleet, host_broker: str) -> None:
    (made,) = fleet.connect(label="eu")
    fleet.db.execute("INSERT INTO qbo.external_ids VALUES ('acme-1', %(id)s)", {"id": made.id})
    fleet.simulator.revoke(made.realm_id)
    host_worker(programs, host_broker)
    delivering = variables(host_broker) | {"CONFIRM_AFTER_SECONDS": "0.5"}
    programs.ready_worker(variables=delivering)
    programs.beat(variables=delivering)
    eventually(lambda: len(received(host_broker)) >= 2)
    verdict, paused = received(host_broker)[:2]
    assert (verdict["type"], verdict["label"], verdict["external_ids"]) == (
        "connection.needs_reauth",
        "eu",
        ["acme-1"],
    )
    assert verdict["payload"]["reconnect_urls"] == {"acme-1": "https://host.example/reconnect/acme-1"}
    assert (paused["type"], paused["payload"]) == ("sync.paused", {"reason": "reauth"})


def test_row_30_a_task_that_the_host_does_not_know_is_discarded_there_and_the_outbox_still_tells(
    programs: Programs, fleet: Fleet, redis_url: str
) -> None:
    # Another database of the worker's own Valkey.
    theirs = urlsplit(redis_url)._replace(path="/1").geturl()
    (made,) = fleet.connect()
    host = host_worker(programs, theirs)
    delivering = variables(theirs, "host.tasks.nobody")
    programs.ready_worker(variables=delivering)
    programs.beat(variables=delivering)
    pause_and_resume(fleet, [made], 1)
    host.wait_for("unregistered task of type 'host.tasks.nobody'")
    eventually(lambda: not outbox.read(fleet.db, Wanted(undelivered=True), limit=1))
    assert received(theirs) == []
    assert [each.type for each in outbox.read_all(fleet.db, Wanted(after=0))] == ["sync.paused", "sync.resumed"]
    eventually(lambda: fleet.holds_the_live_token(made) and fleet.row(made.id).token_version == 2)


def trouble_of(url: str) -> tuple[str, float]:
    """Return why an event does not get into this broker, and how long it took to know, in seconds."""
    began = time.monotonic()
    with (
        pytest.raises(BrokerTrouble) as caught,
        event_broker.reach(EventTarget(TASK, QUEUE, Secret(url)), lambda *_: None),
    ):
        pass
    return caught.value.reason, time.monotonic() - began


@pytest.mark.parametrize("scheme", ["redis", "amqp", "rediss", "amqps"])
def test_a_broker_that_accepts_and_never_answers_costs_seconds(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        reason, took_s = trouble_of(f"{scheme}://u:canary@127.0.0.1:{port}/0")
    assert (reason, took_s < 10) == ("unreachable", True), took_s


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_not_there_is_known_at_once(scheme: str) -> None:
    reason, took_s = trouble_of(f"{scheme}://u:canary@127.0.0.1:1/0")
    assert (reason, took_s < 3) == ("unreachable", True), took_s


def test_the_next_of_several_brokers_is_tried(host_broker: str) -> None:
    away = "redis://127.0.0.1:1/0"
    with event_broker.reach(EventTarget(TASK, QUEUE, Secret(f"{away};{host_broker}")), lambda *_: None):
        pass
    assert trouble_of(f"{away};{away}")[0] == "unreachable"


def test_a_broker_that_is_full_takes_nothing_and_says_so(host_broker: str, another_app: Celery) -> None:
    event = EventMessage(
        id=1,
        type="sync.paused",
        connection_id=1,
        external_ids=[],
        label=None,
        sequence=1,
        created_at="2026-01-01T00:00:00.000Z",
        payload={},
    )

    def message(target: EventTarget, event: EventMessage) -> Any:
        return another_app.amqp.create_task_message("1", target.task, (event,), {})

    with redis.Redis.from_url(host_broker) as client:
        target = EventTarget(TASK, QUEUE, Secret(host_broker))
        with event_broker.reach(target, message) as send:
            client.config_set("maxmemory", "1")
            with pytest.raises(BrokerTrouble) as caught:
                send(event)
            client.config_set("maxmemory", "0")
            assert (caught.value.reason, client.llen(QUEUE)) == ("refused", 0)
            send(event)
            assert client.llen(QUEUE) == 1


def test_a_broker_that_refuses_the_password_says_so_without_it(host_broker: str) -> None:
    parts = urlsplit(host_broker)
    wrong = parts._replace(netloc=f":canary@{parts.hostname}:{parts.port}").geturl()
    assert trouble_of(wrong)[0] == "unreachable"
