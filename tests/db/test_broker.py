"""kombu's channels to Redis as `worker.broker` has them, on a real Valkey."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from kombu import Connection, Consumer, Message, Queue
from kombu.asynchronous import Hub
from redis.exceptions import ConnectionError as ConnectionLost

from tests.support.proxy import FaultProxy
from worker import broker, queues

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.embedded import Servers


@pytest.fixture
def channel(session_servers: Servers) -> Iterator[Any]:
    # By name kombu would give the transport that this process asked for first.
    with Connection(session_servers.redis_url, transport=broker.Transport) as connection:
        channel: Any = connection.default_channel
        yield channel
        channel._disconnect_pools()  # noqa: SLF001  # kombu gives messages back over connections that it forgets


def _client(channel: Any) -> Any:
    with channel.conn_or_acquire() as client:
        return client


def test_messages_are_noted_and_acknowledged_with_one_client(channel: Any) -> None:
    first = _client(channel)
    assert first.ping()
    assert _client(channel) is first


def test_a_channel_whose_connections_were_closed_goes_on_with_another_client(channel: Any) -> None:
    first = _client(channel)
    channel._disconnect_pools()  # noqa: SLF001  # as kombu does after a cut and in a forked child
    second = _client(channel)
    assert second is not first
    assert second.connection_pool is not first.connection_pool
    assert second.ping()


def test_the_client_that_waits_for_messages_is_another(channel: Any) -> None:
    assert channel.client is not _client(channel)


QUEUE = "test.broker"


@pytest.fixture
def valkey(session_servers: Servers) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(session_servers.redis_url) as client:
        client.delete("unacked", "unacked_index", QUEUE)
        yield client
        client.delete("unacked", "unacked_index", QUEUE)


@pytest.fixture
def taken(channel: Any, valkey: redis.Redis) -> Iterator[list[Message]]:  # noqa: ARG001  # the queue is empty
    """Return a list that messages are put into as they are taken from the queue."""
    messages: list[Message] = []
    queue = Queue(QUEUE, channel=channel)
    with Consumer(channel, [queue], on_message=messages.append, prefetch_count=0):
        yield messages


def _publish(channel: Any, *texts: str, task: str = queues.REFRESH_DUE) -> None:
    with channel.connection.client.Producer() as producer:
        for text in texts:
            producer.publish(text, routing_key=QUEUE, headers={"task": task})


def _turn(hub: Hub, until: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 5
    while not until():
        assert time.monotonic() < give_up
        hub.run_once()


@pytest.fixture
def hub(channel: Any) -> Iterator[Hub]:
    hub = Hub()
    channel.connection.client.register_with_event_loop(hub)
    yield hub
    hub.close()


def test_an_acknowledgement_goes_along_with_the_note_of_the_next_message(
    channel: Any, taken: list[Message], hub: Hub, valkey: redis.Redis
) -> None:
    _publish(channel, "first")
    _turn(hub, lambda: len(taken) == 1)
    taken[0].ack()
    assert valkey.hlen("unacked") == 1
    _publish(channel, "second")
    _turn(hub, lambda: len(taken) == 2)
    assert valkey.hkeys("unacked") == [str(taken[1].delivery_tag).encode()] == valkey.zrange("unacked_index", 0, -1)


def test_an_acknowledgement_waits_for_no_message(
    channel: Any, taken: list[Message], hub: Hub, valkey: redis.Redis
) -> None:
    _publish(channel, "only")
    _turn(hub, lambda: len(taken) == 1)
    taken[0].ack()
    began = time.monotonic()
    _turn(hub, lambda: valkey.hlen("unacked") == 0)
    assert time.monotonic() - began < broker.ACKNOWLEDGED_WITHIN_S + 1.5
    assert valkey.zcard("unacked_index") == 0


@pytest.mark.parametrize("task", sorted(queues.TASKS - {queues.REFRESH_DUE, queues.REFRESH_CONNECTION}))
def test_what_must_not_come_again_is_acknowledged_at_once_with_what_waits(
    channel: Any, taken: list[Message], hub: Hub, valkey: redis.Redis, task: str
) -> None:
    _publish(channel, "waits", task=queues.REFRESH_CONNECTION)
    _publish(channel, "does not", task=task)
    _turn(hub, lambda: len(taken) == 2)
    taken[0].ack()
    assert valkey.hlen("unacked") == 2
    taken[1].ack()
    assert (valkey.hlen("unacked"), valkey.zcard("unacked_index")) == (0, 0)


def test_a_channel_that_closes_acknowledges_what_is_done_and_gives_the_rest_back(
    channel: Any, taken: list[Message], hub: Hub, valkey: redis.Redis
) -> None:
    _publish(channel, "done", "rest")
    _turn(hub, lambda: len(taken) == 2)
    taken[0].ack()
    channel.close()
    assert (valkey.hlen("unacked"), valkey.zcard("unacked_index"), valkey.llen(QUEUE)) == (0, 0, 1)


def test_without_an_event_loop_a_message_is_acknowledged_at_once(
    channel: Any, taken: list[Message], valkey: redis.Redis
) -> None:
    _publish(channel, "only")
    channel.connection.client.drain_events(timeout=5)
    assert valkey.hlen("unacked") == 1
    taken[0].ack()
    assert valkey.hlen("unacked") == 0


@pytest.fixture
def tasks_taken(channel: Any, valkey: redis.Redis) -> Iterator[list[Message]]:
    """Return a list that messages are put into as they are taken from two queues of the worker's."""
    valkey.delete(*queues.ALL)
    messages: list[Message] = []
    both = [Queue(name, channel=channel) for name in (queues.ADHOC, queues.SWEEP)]
    with Consumer(channel, both, on_message=messages.append, prefetch_count=0):
        yield messages
    valkey.delete(*queues.ALL)


@pytest.mark.parametrize("flooded", [queues.ADHOC, queues.SWEEP])
def test_refused_messages_do_not_hold_up_another_queue(
    channel: Any, tasks_taken: list[Message], hub: Hub, valkey: redis.Redis, flooded: str
) -> None:
    # kombu asks its queues in an order of its own at first: without the rotation one of the two fails.
    other = queues.SWEEP if flooded == queues.ADHOC else queues.ADHOC
    valkey.lpush(flooded, *["no message"] * 20)
    with channel.connection.client.Producer() as producer:
        headers = {"task": queues.REFRESH_DUE, "id": "1"}
        producer.publish([[1], {}, {}], serializer="json", routing_key=other, headers=headers)
    _turn(hub, lambda: len(tasks_taken) == 1)
    assert valkey.llen(flooded) > 10


def test_refused_messages_are_one_error_for_each_reason(
    tasks_taken: list[Message], hub: Hub, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.lpush(queues.ADHOC, *['"no message"', "{}"] * 3)
    _turn(hub, lambda: valkey.llen(queues.ADHOC) == 0)
    _turn(hub, lambda: len(caplog.records) == 6)
    assert [record.levelname for record in caplog.records] == ["ERROR", *["WARNING"] * 5]
    assert tasks_taken == []


def test_a_message_of_a_channel_that_is_gone_cannot_be_acknowledged(
    channel: Any, taken: list[Message], hub: Hub
) -> None:
    _publish(channel, "only")
    _turn(hub, lambda: len(taken) == 1)
    channel.connection.client.close()
    with pytest.raises(ConnectionLost, match="closed meanwhile"):
        taken[0].ack()


@pytest.fixture
def way(session_servers: Servers) -> Iterator[FaultProxy]:
    with FaultProxy(session_servers.redis_url) as proxy:
        yield proxy


def test_acknowledgements_that_a_lost_connection_did_not_bring_are_brought_when_the_channel_closes(
    way: FaultProxy, valkey: redis.Redis
) -> None:
    with Connection(way.url, transport=broker.Transport) as connection:
        channel: Any = connection.default_channel
        hub = Hub()
        connection.register_with_event_loop(hub)
        taken: list[Message] = []
        with Consumer(channel, [Queue(QUEUE, channel=channel)], on_message=taken.append, prefetch_count=0):
            _publish(channel, "done", "rejected")
            _turn(hub, lambda: len(taken) == 2)
            taken[0].ack()
            way.refuse()
            way.cut("reset")
            with pytest.raises(ConnectionLost):
                channel.qos.append(taken[0], "another")
            taken[1].reject()
            assert valkey.hlen("unacked") == 2
            way.heal()
            channel.close()
        hub.close()
        channel._disconnect_pools()  # noqa: SLF001  # as above
    assert (valkey.hlen("unacked"), valkey.zcard("unacked_index"), valkey.llen(QUEUE)) == (0, 0, 0)
