from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Program, Programs, eventually, wait_until_ready
from worker.queues import ADHOC, REFRESH_DUE, SWEEP

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

    from tests.support.fleet import Connected, Fleet
    from worker.embedded import Servers

PUBLISHED = r"sweep published=(\d+)"
SKIPPED = r"sweep\.skipped reason=(\w+)"


def published(programs: Programs) -> list[int]:
    """Return how many messages each sweep has published."""
    return [int(number) for number in programs.says(PUBLISHED)]


def queued(valkey: redis.Redis) -> list[int]:
    """Return the connection ids of the messages that wait, the next one first."""
    args = (json.loads(message)["headers"]["argsrepr"] for message in reversed(valkey.lrange(SWEEP, 0, -1)))
    return [int(re.sub(r"\D", "", each)) for each in args]


def test_row_2_two_beats_and_two_workers_publish_and_call_once_for_each_due_connection(
    programs: Programs, fleet: Fleet, valkey: redis.Redis
) -> None:
    # Fails without `queued_until` in `_MARK` (seen: 28 messages for 24) or without the half period in `_BEGIN`: seen.
    pace = {"SWEEP_SECONDS": "2"}
    connected = fleet.connect(24)
    fleet.simulator.fault("latency", delay=0.5)
    workers = [programs.worker(threads=2, variables=pace) for _ in range(2)]
    beats = [programs.beat(variables=pace) for _ in range(2)]
    wait_until_ready(*workers)
    eventually(lambda: fleet.simulator.check().refreshes >= 24)
    swept_at = swept(fleet)
    eventually(lambda: swept(fleet) > swept_at and not fleet.simulator.in_flight())
    assert fleet.simulator.check().calls_per_grant == {1: 24}
    assert sum(published(programs)) == 24
    assert fleet.statuses(connected) == {"active": 24}
    assert all("Sending due task" in beat.output() for beat in beats)
    assert "swept_already" in programs.says(SKIPPED)
    assert not list(valkey.scan_iter("celery-task-meta-*")), "sweeps and their messages keep no results"


def swept(fleet: Fleet) -> float:
    row = fleet.db.execute("SELECT COALESCE(extract(epoch FROM swept_at), 0) AS at FROM qbo.apps").one()
    return float(row.at)


def flush(valkey: redis.Redis, _: Servers) -> None:
    valkey.flushall()


def restart_empty(valkey: redis.Redis, servers: Servers) -> None:
    valkey.flushall()
    servers.kill_valkey()
    servers.start_valkey()


@pytest.mark.parametrize("forget", [flush, restart_empty])
def test_row_3_what_redis_forgets_is_published_again_when_the_queue_marks_lapse(
    programs: Programs,
    fleet: Fleet,
    valkey: redis.Redis,
    session_servers: Servers,
    forget: Callable[[redis.Redis, Servers], None],
) -> None:
    pace = {"SWEEP_SECONDS": "0.4", "REFRESH_PER_MINUTE": "6000"}  # marks lapse after 4 s
    connected = fleet.connect(20)
    frozen = fleet.simulator.fault("freeze")
    worker = programs.ready_worker(threads=2, variables=pace)
    beat = programs.beat(variables=pace)
    eventually(lambda: len(fleet.simulator.in_flight()) == 2 and valkey.llen(SWEEP) > 0)
    forget(valkey, session_servers)
    fleet.simulator.clear_fault(frozen)
    eventually(lambda: fleet.simulator.check().grants == 20)
    eventually(lambda: not fleet.simulator.in_flight())
    assert fleet.simulator.check().calls_per_grant == {1: 20}
    assert sum(published(programs)) > 20, "nothing had been forgotten"
    eventually(lambda: all(fleet.holds_the_live_token(each) for each in connected))
    assert worker.is_running
    assert beat.is_running


@pytest.fixture
def dispatcher(programs: Programs) -> Callable[..., Program]:
    """Give a function that starts a beat and a worker for its messages alone: what it publishes stays in the queue."""

    def start(pace: dict[str, str]) -> Program:
        worker = programs.ready_worker(threads=2, queues=[ADHOC], variables=pace)
        programs.beat(variables=pace)
        return worker

    return start


def nearly_expired(fleet: Fleet, connected: Connected, hours: int) -> None:
    fleet.update(
        connected.id,
        "refresh_expires_at = now() + make_interval(hours => %(hours)s), next_refresh_at = now()",
        hours=hours,
    )


def test_row_31_a_sweep_publishes_at_most_the_rate_and_what_dies_soon_before_what_is_overdue(
    fleet: Fleet, valkey: redis.Redis, dispatcher: Callable[..., Program]
) -> None:
    # Fails without `_publish_urgent`: seen.
    with fleet.db.transaction():
        due = fleet.connect(2000)
    fleet.update(None, "next_refresh_at = now() - interval '3 days'")
    dying = due[1500:1512]
    for hours, each in enumerate(dying, 1):
        nearly_expired(fleet, each, hours)
    worker = dispatcher({"SWEEP_SECONDS": "0.5", "REFRESH_PER_MINUTE": "1200"})
    eventually(lambda: len(worker.says(PUBLISHED)) >= 4)
    ids = queued(valkey)
    assert set(worker.says(PUBLISHED)) == {"10"}, "1,200 a minute are 10 in half a second"
    first = [ids[:5], ids[10:15], ids[20:22]]
    assert [each for some in first for each in some] == [each.id for each in dying], "half of each sweep at most"
    assert len(set(ids)) == len(ids)
    assert len(ids) <= 10 * (len(worker.says(PUBLISHED)) + 1)


def test_row_31_nothing_is_published_while_more_than_two_minutes_worth_wait(
    fleet: Fleet,
    valkey: redis.Redis,
    another_app: Celery,
    dispatcher: Callable[..., Program],
    programs: Programs,
) -> None:
    # Fails without the queue's length in `dispatch_due`: seen.
    fleet.connect(30)
    for _ in range(21):
        another_app.send_task(REFRESH_DUE, args=[0], queue=SWEEP)  # nobody's
    pace = {"SWEEP_SECONDS": "1", "REFRESH_PER_MINUTE": "10"}
    worker = dispatcher(pace)
    eventually(lambda: len(worker.says(SKIPPED)) >= 3)
    assert set(worker.says(SKIPPED)) == {"queue_full"}
    assert (valkey.llen(SWEEP), published(programs)) == (21, [])
    programs.ready_worker(threads=2, queues=[SWEEP], variables=pace)
    eventually(lambda: fleet.simulator.check().grants >= 1)
