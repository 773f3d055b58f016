"""kombu's channels to Redis as `worker.broker` has them, on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

from worker import broker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.embedded import Servers


@pytest.fixture
def channel(session_servers: Servers) -> Iterator[Any]:
    # By name kombu would give the transport that this process asked for first.
    with Connection(session_servers.redis_url, transport=broker.Transport) as connection:
        yield connection.default_channel


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
