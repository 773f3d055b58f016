from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from celery import Celery

import qbo_refresh
from qbo_refresh import SyncPaused, SyncTask, TemporarilyUnavailable, UnknownConnection
from qbo_refresh import testing as qbo_testing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbo_refresh.testing import FakeConnections


@pytest.fixture
def connections() -> Iterator[FakeConnections]:
    with qbo_testing.fake() as made:
        made.connect(7, realm_id="91", external_ids=["acme-1"])
        yield made


def test_the_real_calls_work_on_a_fake_connection(connections: FakeConnections) -> None:
    for name in (7, "7", "external:acme-1", "realm:91"):
        assert qbo_refresh.access_token(name).realm_id.reveal() == "91"
    assert connections.asked == []
    with pytest.raises(UnknownConnection):
        qbo_refresh.access_token(8)


def test_an_expired_or_rejected_token_is_asked_for_once_and_renewed(connections: FakeConnections) -> None:
    connections.expire(7)
    token = qbo_refresh.access_token(7)
    assert qbo_refresh.reject(token).version == token.version + 1
    assert connections.asked == [7, 7]


def test_a_refresh_can_be_made_to_fail(connections: FakeConnections) -> None:
    connections.expire(7)
    connections.fail(7, "throttled")
    with pytest.raises(TemporarilyUnavailable, match="throttled"):
        qbo_refresh.access_token(7)
    connections.fail(7, None)
    assert qbo_refresh.access_token(7).version == 2


def test_a_paused_run_is_ignored_and_counted_in_eager_mode_too(connections: FakeConnections) -> None:
    app = Celery("a host", set_as_current=False)
    app.conf.task_always_eager = True
    ran: list[int] = []

    @app.task(base=SyncTask, shared=False)
    def sync(connection_id: int) -> None:
        ran.append(connection_id)
        if len(ran) > 1:
            connections.pause(7, "operator")
        qbo_refresh.access_token(connection_id)

    began = time.monotonic()
    assert sync.apply(args=(7,)).state == "SUCCESS"
    assert {str(sync.apply(args=(7,)).state) for _ in range(2)} == {"IGNORED"}
    assert (ran, connections.missed) == ([7, 7], {7: 2})
    assert time.monotonic() - began < 3, "no broker is looked for: that took four seconds a run"
    with pytest.raises(SyncPaused):
        sync(7)
    connections.resume(7)
    assert qbo_refresh.ensure_syncable(7) == 7


def test_a_decorated_task_takes_the_connection_alone(connections: FakeConnections) -> None:
    app = Celery("a host", set_as_current=False)
    app.conf.task_always_eager = True

    @app.task(base=SyncTask, shared=False)
    @qbo_refresh.with_access_token(min_ttl=60)
    def sync(connection_id: int, token: qbo_refresh.AccessToken) -> int:
        if token.version == 1:
            raise qbo_refresh.TokenRejected
        return token.version + connection_id - connection_id

    assert sync.delay(connection_id=7).get() == 2
    assert connections.asked == [7]


def test_a_task_without_the_argument_says_which_it_needs(connections: FakeConnections) -> None:
    app = Celery("a host", set_as_current=False)

    @app.task(base=SyncTask, shared=False)
    def task(company: int) -> int:
        return company

    with pytest.raises(qbo_refresh.ConfigurationError, match="'connection_id'"):
        task.apply(args=(7,)).get()
    assert connections.missed == {}


def test_events_are_read_on_from_the_last_one(connections: FakeConnections) -> None:
    connections.emit("sync.paused", 7, reason="reauth")
    connections.emit("sync.resumed", 7)
    first, second = qbo_refresh.events()
    assert (first.type, first.payload) == ("sync.paused", {"reason": "reauth"})
    assert qbo_refresh.events(after=first.id) == [second]


def test_a_connection_is_disconnected_and_one_of_several_names_alone_leaves(connections: FakeConnections) -> None:
    connections.connect(7, realm_id="91", external_ids=["acme-1", "acme-2"])
    qbo_refresh.disconnect("external:acme-1", external_id="acme-1")
    with pytest.raises(UnknownConnection):
        qbo_refresh.ensure_syncable("external:acme-1")
    assert qbo_refresh.ensure_syncable("external:acme-2") == 7
    qbo_refresh.disconnect(7, external_id="acme-2")
    qbo_refresh.disconnect(7)
    with pytest.raises(SyncPaused) as paused:
        qbo_refresh.ensure_syncable("external:acme-2")
    assert paused.value.reasons == ("disconnected",)


def test_a_hint_is_passed_on(connections: FakeConnections) -> None:
    qbo_refresh.disconnect_hint("external:acme-1")
    assert connections.hinted == [7]
    assert qbo_refresh.ensure_syncable(7) == 7
