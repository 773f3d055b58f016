from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import Programs, eventually, wait_until_ready
from tests.support.proxy import FaultProxy, Way
from worker.queues import ADHOC, REFRESH_CONNECTION, REFRESH_DUE, SWEEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    from celery import Celery

    from intuit_simulator import Call
    from tests.support.fleet import Connected, Fleet
    from worker.embedded import Servers

STOPS_WITHIN_S = 25
FAULTS = ("unavailable", "invalid_grant", "html", "reset")


def calls_of(fleet: Fleet, connected: Connected) -> list[Call]:
    """Return what the simulator saw of one connection, in the order in which it began."""
    mine = [call for call in fleet.simulator.journal() if call.realm_id == connected.realm_id]
    return sorted(mine, key=lambda call: call.started)


def all_hold_live_tokens(fleet: Fleet, connected: Sequence[Connected]) -> bool:
    return all(fleet.holds_the_live_token(each) for each in connected)


def rows(fleet: Fleet) -> list[Any]:
    return list(fleet.db.execute("SELECT * FROM qbo.connections ORDER BY id").all())


def test_row_4_with_redis_away_nothing_changes_and_with_redis_back_refreshes_go_on(
    programs: Programs, fleet: Fleet, session_servers: Servers
) -> None:
    pace = {"SWEEP_SECONDS": "0.5"}
    connected = fleet.connect(10)
    worker, beat = programs.ready_worker(variables=pace), programs.beat(variables=pace)
    eventually(lambda: all_hold_live_tokens(fleet, connected) and fleet.row(connected[0].id).token_version == 2)
    eventually(lambda: fleet.simulator.check().refreshes == 10)
    session_servers.stop_valkey()
    try:
        fleet.update(None, "next_refresh_at = now()")
        before = rows(fleet)
        worker.wait_for("Cannot connect to redis")
        beat.wait_for("Couldn't apply scheduled task")
        assert rows(fleet) == before
    finally:
        session_servers.start_valkey()
    eventually(lambda: fleet.simulator.check().refreshes == 20)
    eventually(lambda: {row.token_version for row in rows(fleet)} == {3})
    assert all_hold_live_tokens(fleet, connected)
    assert fleet.simulator.check().calls_per_grant == {2: 10}
    assert (worker.is_running, beat.is_running) == (True, True)


def test_row_4_a_broker_that_cuts_its_connections_ends_no_worker(
    programs: Programs, fleet: Fleet, another_app: Celery, valkey: redis.Redis, environment: dict[str, str]
) -> None:
    # Fails with Celery's own consumer: if the line for its orders goes before the one for messages, what kombu meets
    # while it gives back what is in flight ends the process.
    (connected,) = fleet.connect()
    slow = fleet.simulator.fault("latency", delay=3)
    with FaultProxy(environment["REDIS_URL"]) as line:
        worker = programs.ready_worker(variables={"REDIS_URL": line.url})
        another_app.send_task(REFRESH_DUE, args=[connected.id], queue=SWEEP)
        eventually(fleet.simulator.in_flight)
        line.refuse()
        assert valkey.client_kill_filter(_type="pubsub")
        worker.wait_for("Connection to broker lost")
        line.cut()
        worker.wait_for("Cannot connect to redis")
        line.heal()
        fleet.simulator.clear_fault(slow)
        eventually(lambda: fleet.simulator.check().refreshes == 1)
        assert worker.is_running, worker.output()


def test_row_4_a_line_to_the_broker_that_goes_dead_without_a_word_holds_up_nobody_for_good(
    programs: Programs, fleet: Fleet, environment: dict[str, str]
) -> None:
    # Fails without `socket_timeout`: beat waits for the answer to a message, the worker for that to an acknowledgement.
    first, second = fleet.connect(2)
    fleet.update(second.id, "next_refresh_at = now() + interval '1 day'")
    slow = fleet.simulator.fault("latency", delay=2)
    with FaultProxy(environment["REDIS_URL"]) as line:
        pace = {"REDIS_URL": line.url, "SWEEP_SECONDS": "1"}
        worker, beat = programs.ready_worker(variables=pace), programs.beat(variables=pace)
        eventually(fleet.simulator.in_flight)
        line.set(up=Way(dropped=True))
        sent = beat.output().count("Sending due task")
        eventually(lambda: fleet.holds_the_live_token(first) and beat.output().count("Sending due task") > sent)
        fleet.simulator.clear_fault(slow)
        line.heal()
        fleet.update(second.id, "next_refresh_at = now()")
        eventually(lambda: fleet.row(second.id).token_version == 2)
        assert (worker.is_running, beat.is_running) == (True, True)


def test_row_5_what_a_killed_worker_had_in_flight_is_recovered_by_another_after_the_lease(
    programs: Programs, fleet: Fleet
) -> None:
    # Fails with a claim that takes a lease that stands: seen, asked again after 2.4 s of 6.
    lease_s = 6.0
    pace = {"LEASE_SECONDS": str(lease_s), "SWEEP_SECONDS": "0.5", "BACKOFF_SECONDS": "1"}
    fleet.simulator.set_policy("grace")
    connected = fleet.connect(8)
    # Half of what was sent is never looked at, the other half rotates, and nobody reads the answer.
    realms = [each.realm_id for each in connected]
    held = [
        fleet.simulator.fault("latency", delay=1.9, if_gone=if_gone, realm_ids=half)
        for if_gone, half in (("drop", realms[:4]), ("process", realms[4:]))
    ]
    first = programs.ready_worker(threads=8, variables=pace)
    programs.beat(variables=pace)
    eventually(lambda: len(fleet.simulator.in_flight()) == 8)
    first.kill()
    for fault in held:
        fleet.simulator.clear_fault(fault)
    programs.worker(threads=8, variables=pace)
    eventually(lambda: all(len(fleet.attempts(each.id)) == 2 for each in connected))
    assert all_hold_live_tokens(fleet, connected)
    for each in connected:
        abandoned, refreshed = fleet.attempts(each.id)
        assert (abandoned.outcome, refreshed.outcome) == ("abandoned", "refreshed")
        assert abandoned.worker.endswith(f":{first.pid}")
        gap_s = (refreshed.began_at - abandoned.began_at).total_seconds()
        assert gap_s >= lease_s
        for one, next_one in pairwise(calls_of(fleet, each)):
            assert one.ended <= next_one.started
    assert fleet.simulator.check().overlapping == 0
    assert fleet.events() == []


def test_row_22_sigterm_finishes_what_is_in_flight_and_gives_the_rest_back(
    programs: Programs, fleet: Fleet, another_app: Celery, valkey: redis.Redis
) -> None:
    # Celery's threads pool cancels what has not begun, and closing the connection to the broker gives it back.
    connected = fleet.connect(30)
    slow = fleet.simulator.fault("latency", delay=3)
    worker = programs.ready_worker(threads=4)
    for each in connected:
        another_app.send_task(REFRESH_DUE, args=[each.id], queue=SWEEP)
    eventually(lambda: len(fleet.simulator.in_flight()) == 4 and valkey.hlen("qbo.unacked") > 4)
    worker.terminate()
    assert worker.process.wait(STOPS_WITHIN_S) == 0, worker.output()
    assert fleet.simulator.check().answers == {"200": 4}
    assert valkey.llen(SWEEP) == 26
    assert valkey.hlen("qbo.unacked") == 0
    done = [each for each in connected if fleet.row(each.id).token_version == 2]
    assert len(done) == 4
    assert all_hold_live_tokens(fleet, connected)
    fleet.simulator.clear_fault(slow)
    programs.worker(threads=4)
    eventually(lambda: all(row.token_version == 2 for row in rows(fleet)))
    assert fleet.simulator.check().calls_per_grant == {1: 30}


@pytest.mark.parametrize("how", ["SIGTERM", "control shutdown"])
def test_row_22_a_stopping_worker_does_not_wait_for_a_database_that_is_away(
    programs: Programs, fleet: Fleet, another_app: Celery, session_servers: Servers, how: str
) -> None:
    # Fails without our own note of the end (`Stop.begin`), which Celery gives to no task: seen, 30 s of patience more.
    (connected,) = fleet.connect()
    worker = programs.ready_worker()
    session_servers.stop_postgres()
    try:
        another_app.send_task(REFRESH_CONNECTION, args=[connected.id], queue=ADHOC)
        worker.wait_for("Task worker.tasks.refresh_connection.* received")
        if how == "SIGTERM":
            worker.terminate()
        else:
            another_app.control.shutdown()
        assert worker.process.wait(12) == 0, worker.output()
    finally:
        session_servers.start_postgres()
    fleet.db.drop_connection()
    assert fleet.token(connected.id) == connected.refresh_token


def test_row_23_a_deploy_while_postgresql_is_away_loses_no_token_that_was_received(
    programs: Programs, fleet: Fleet, session_servers: Servers, another_app: Celery
) -> None:
    # Fails without `time_is_up`: the old worker never ends; without `escrow.find` in `_candidates`: the grant is lost.
    pace = {"LEASE_SECONDS": "6", "SWEEP_SECONDS": "0.5", "BACKOFF_SECONDS": "1"}
    connected = fleet.connect(6)
    frozen = fleet.simulator.fault("latency", delay=1.5)
    old = programs.ready_worker(threads=8, variables=pace)
    for each in connected:
        another_app.send_task(REFRESH_DUE, args=[each.id], queue=SWEEP)
    eventually(lambda: len(fleet.simulator.in_flight()) == 6)
    session_servers.kill_postgres()
    try:
        eventually(lambda: len(old.says("save.repeating")) == 6)
        old.terminate()
        assert old.process.wait(STOPS_WITHIN_S) == 0, old.output()
        fleet.simulator.clear_fault(frozen)
        new = programs.worker(threads=8, variables=pace)
        programs.beat(variables=pace)
        new.wait_for("PostgreSQL at DATABASE_URL cannot be reached")
    finally:
        session_servers.start_postgres()
    fleet.db.drop_connection()
    eventually(lambda: all(row.token_version == 2 and row.lease_id is None for row in rows(fleet)))
    assert all_hold_live_tokens(fleet, connected)
    assert fleet.simulator.check().superseded == 0
    assert fleet.statuses(connected) == {"active": 6}
    assert fleet.events() == []


def test_the_ledger_says_what_the_provider_saw_call_by_call(programs: Programs, fleet: Fleet) -> None:
    pace = {
        "LEASE_SECONDS": "3",
        "SWEEP_SECONDS": "0.5",
        "BACKOFF_SECONDS": "0.5",
        "CONFIRM_AFTER_SECONDS": "1",
        "REFRESH_PER_MINUTE": "6000",
    }
    simulator = fleet.simulator
    simulator.set_policy("grace")
    connected = fleet.connect(40)
    for number, each in enumerate(connected[:24]):
        simulator.fault(FAULTS[number % len(FAULTS)], realm_ids=each.realm_id, count=1)
    workers = [programs.worker(threads=8, variables=pace) for _ in range(2)]
    programs.beat(variables=pace)
    wait_until_ready(*workers)
    eventually(lambda: all(row.last_outcome == "refreshed" and row.lease_id is None for row in rows(fleet)))
    assert simulator.check().faulted == 24
    assert simulator.check().overlapping == 0
    assert all_hold_live_tokens(fleet, connected)
    journal = sorted(simulator.journal(), key=lambda call: call.started)
    for each in connected:
        calls = [call for call in journal if call.realm_id == each.realm_id]
        attempts = fleet.attempts(each.id)
        assert [attempt.posts for attempt in attempts] == [1] * len(calls)
        # The simulator counts an answer as given that it has cut.
        seen = [call.status if call.written else None for call in calls]
        assert [attempt.http_status for attempt in attempts] == seen
        assert all((attempt.outcome == "refreshed") == (attempt is attempts[-1]) for attempt in attempts)
        assert attempts[0].fingerprint_before == fleet.fingerprint(each.refresh_token)
        assert attempts[-1].fingerprint_after == fleet.fingerprint(fleet.state(each).refresh_token)
        assert [one.fingerprint_before for one in attempts[1:]] == [attempts[0].fingerprint_before] * len(calls[1:])
