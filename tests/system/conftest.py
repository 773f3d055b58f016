"""Fixtures for tests of real Celery processes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from tests.support.processes import Programs
from tests.support.roles import as_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from intuit_simulator import Simulator
    from worker.embedded import Servers


def assert_without_secrets(text: str, simulator: Simulator) -> None:
    """Check that a text names no company and holds no token of the simulator's, in clear."""
    assert "RT1-" not in text, "a refresh token"
    assert "eyJhbGciOi" not in text, "an access token"
    assert simulator.client_secret not in text
    assert not {state.realm_id for state in simulator.states()} & set(re.findall(r"\d+", text))


@pytest.fixture
def environment(owner_environment: dict[str, str]) -> dict[str, str]:
    """Give the variables of a worker under its role; a host of it gets the client's. The test itself is the owner."""
    return as_worker(owner_environment)


@pytest.fixture
def programs(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    tmp_path: Path,
    session_servers: Servers,
    simulator: Simulator,
) -> Iterator[Programs]:
    """Give the means to start Celery's processes. They end with the test; what they said must be without secrets."""
    forked = "worker_start" not in request.node.path.name
    running = Programs(tmp_path, environment, session_servers.watch, forked=forked)
    yield running
    running.close()
    assert_without_secrets(running.output(), simulator)


@pytest.fixture
def another_app(redis_url: str) -> Iterator[Celery]:
    """Give a Celery app that shares the broker and the result backend, and knows nothing of ours but names."""
    with Celery("another", broker=redis_url, backend=redis_url, set_as_current=False) as app:
        yield app
        backend: Any = app.backend
        backend.result_consumer.stop()
        # A result of a chain, which goes with the garbage some time later, would connect anew to be told no more.
        backend.result_consumer._pubsub = None  # noqa: SLF001
        backend.client.connection_pool.disconnect()


@pytest.fixture
def valkey(redis_url: str) -> Iterator[redis.Redis]:
    """Give a client of the broker, to look inside."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
