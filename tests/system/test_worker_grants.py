"""Consents and ends by real workers: a host that shares the broker, a person at the simulator's consent page."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

import qbo_refresh
from qbo_refresh.errors import ConsentFailed, TemporarilyUnavailable, WrongRealm
from tests.support.people import consent
from tests.support.processes import PATIENCE_S, eventually
from tests.system.conftest import assert_without_secrets
from worker.queues import ADHOC, DISCONNECT, DISCONNECT_HINT, DISPATCH_DUE, EXCHANGE

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from qbo_refresh.authorizing import Connected
    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from tests.support.processes import Programs


def called_back(connection: int | str, *, realm_id: str = "", label: str | None = None) -> tuple[str, str, str, str]:
    """Follow a link as a person does, and return what `complete` takes."""
    session = secrets.token_urlsafe()
    back = consent(qbo_refresh.authorize_url(connection, session, label=label), realm_id=realm_id)
    query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    return query["code"], query["state"], query["realmId"], session


def connect(connection: int | str, *, realm_id: str = "", label: str | None = None) -> Connected:
    return qbo_refresh.complete(*called_back(connection, realm_id=realm_id, label=label), timeout=PATIENCE_S)


@pytest.mark.usefixtures("consents")
def test_a_customer_connects_reconnects_and_disconnects(
    fleet: Fleet, programs: Programs, another_app: Celery, valkey: redis.Redis
) -> None:
    programs.ready_worker()
    first = connect("external:acme-1", label="Acme").connection_id
    row = fleet.row(first)
    (state,) = fleet.simulator.states()
    assert (row.status, row.label, fleet.token(first)) == ("active", "Acme", state.refresh_token)

    fleet.simulator.revoke(state.realm_id)
    hint: Any = another_app.send_task(DISCONNECT_HINT, args=[first], queue=ADHOC).get(timeout=PATIENCE_S)
    assert (hint["outcome"], hint["reason"]) == ("suspect", "invalid_grant"), "a first refusal like any other"
    assert fleet.attempts(first)[-1].trigger == "hint"

    arguments = called_back("external:acme-1", realm_id=state.realm_id)
    assert qbo_refresh.complete(*arguments, timeout=PATIENCE_S).connection_id == first
    assert qbo_refresh.complete(*arguments, timeout=1).connection_id == first, "after a crash, with the same arguments"
    assert fleet.row(first).status == "active"
    assert fleet.token(first) == fleet.simulator.state(state.realm_id).refresh_token

    with pytest.raises(WrongRealm, match="not 'Acme'"):
        connect(first)
    ended: Any = another_app.send_task(DISCONNECT, args=[first], queue=ADHOC).get(timeout=PATIENCE_S)
    assert ended == {"connection_id": first, "outcome": "disconnected", "reason": None, "revoked": True}
    assert not fleet.simulator.state(state.realm_id).alive
    assert fleet.events(first) == ["connection.reconnected", "connection.disconnected", "sync.paused"]

    code, link_state, _, session = arguments
    everything = programs.output() + "".join(
        str(valkey.lrange(key, 0, -1)) if valkey.type(key) == "list" else str(valkey.get(key))
        for key in valkey.scan_iter()
        if valkey.type(key) in ("list", "string")
    )
    assert_without_secrets(everything, fleet.simulator)
    for secret in (code, link_state, session):
        assert secret not in everything


@pytest.mark.usefixtures("consents")
def test_a_host_disconnects_one_customer_then_the_other_and_has_a_hint_looked_at(
    fleet: Fleet, programs: Programs
) -> None:
    programs.ready_worker()
    first = connect("external:acme-1").connection_id
    (state,) = fleet.simulator.states()
    assert connect("external:acme-2", realm_id=state.realm_id).connection_id == first
    qbo_refresh.disconnect("external:acme-1", external_id="acme-1", timeout=PATIENCE_S)
    with pytest.raises(qbo_refresh.UnknownConnection):
        qbo_refresh.ensure_syncable("external:acme-1")
    assert qbo_refresh.ensure_syncable("external:acme-2") == first

    fleet.update(first, "attempt_began_at = now() - interval '2 min'")
    qbo_refresh.disconnect_hint("external:acme-2")
    eventually(lambda: [attempt.trigger for attempt in fleet.attempts(first)][-1:] == ["hint"])
    assert qbo_refresh.ensure_syncable(first) == first

    qbo_refresh.disconnect("external:acme-2", external_id="acme-2", timeout=PATIENCE_S)
    assert fleet.row(first).status == "disconnected"
    qbo_refresh.disconnect(first, timeout=PATIENCE_S)
    eventually(lambda: not fleet.simulator.state(state.realm_id).alive)


@pytest.mark.usefixtures("consents")
def test_a_slow_worker_goes_on_and_the_same_call_hears_of_it(fleet: Fleet, programs: Programs) -> None:
    programs.ready_worker()
    frozen = fleet.simulator.fault("freeze", rotate=True, count=1)
    arguments = called_back("external:acme-1")
    with pytest.raises(TemporarilyUnavailable) as raised:
        qbo_refresh.complete(*arguments, timeout=1)
    assert (raised.value.reason, raised.value.retry_after) == ("in_progress", timedelta(seconds=2))
    fleet.simulator.clear_fault(frozen)
    assert qbo_refresh.complete(*arguments, timeout=PATIENCE_S).connection_id
    assert fleet.simulator.check().calls == 1


@pytest.mark.usefixtures("consents")
def test_a_worker_killed_with_a_code_in_flight_leaves_a_clear_answer(fleet: Fleet, programs: Programs) -> None:
    dying = programs.ready_worker(variables={"LEASE_SECONDS": "6"})
    fleet.simulator.fault("freeze", rotate=True, count=1)
    arguments = called_back("external:acme-1")
    answers: list[BaseException] = []

    def complete() -> None:
        try:
            qbo_refresh.complete(*arguments, timeout=PATIENCE_S)
        except ConsentFailed as error:
            answers.append(error)

    waiting = threading.Thread(target=complete)
    waiting.start()
    eventually(fleet.simulator.in_flight)
    dying.kill()
    fleet.simulator.clear_faults()
    programs.ready_worker(variables={"LEASE_SECONDS": "6"})
    waiting.join(PATIENCE_S)
    (answer,) = answers
    assert isinstance(answer, ConsentFailed)
    assert answer.reason == "answer_lost"
    assert fleet.simulator.check().exchanges == 1
    assert connect("external:acme-1").connection_id


@pytest.mark.skipif(sys.platform != "linux", reason="finds the pool's child in /proc")
def test_row_22_sigterm_with_a_code_in_flight_waits_for_the_save(
    fleet: Fleet, consents: Consents, programs: Programs, another_app: Celery
) -> None:
    # To the child of a prefork pool, whose tasks run in a main thread. Fails without `deferred()` in `exchange`: seen,
    # the child dies with the grant, and the consent is lost.
    authorization_id = consents.accepted("external:acme-1")
    worker = programs.ready_worker("-P", "prefork", "-c", "1")
    frozen = fleet.simulator.fault("freeze", rotate=True, count=1)
    another_app.send_task(EXCHANGE, args=[authorization_id], queue=ADHOC)
    eventually(fleet.simulator.in_flight)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    assert children
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    fleet.simulator.clear_fault(frozen)
    ended = "SELECT outcome, connection_id FROM qbo.authorizations WHERE finished_at IS NOT NULL"
    (row,) = eventually(lambda: fleet.db.execute(ended).all())
    assert row.outcome == "connected"
    (state,) = fleet.simulator.states()
    assert fleet.token(row.connection_id) == state.refresh_token
    assert fleet.simulator.check().calls == 1
    eventually(lambda: not {child for child in children if Path(f"/proc/{child}").exists()})


def test_a_callback_whose_message_was_lost_is_taken_up_by_the_sweep(
    fleet: Fleet, consents: Consents, programs: Programs, another_app: Celery
) -> None:
    (connected,) = fleet.connect()
    consents.accepted(connected.id, connected.realm_id)
    programs.ready_worker()
    another_app.send_task(DISPATCH_DUE, queue=ADHOC, ignore_result=True)
    eventually(lambda: fleet.row(connected.id).grant_number == 2)
