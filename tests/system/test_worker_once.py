from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.processes import Programs, eventually, wait_until_ready
from worker.queues import REFRESH_DUE, SWEEP

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from tests.support.fleet import Fleet

DONE = r"Task worker\.tasks\.refresh_due\[\S+\] succeeded"


def test_row_1_one_message_delivered_50_times_to_4_worker_processes_is_one_call(
    programs: Programs, fleet: Fleet, another_app: Celery, valkey: redis.Redis
) -> None:
    # Fails without the lease in the claim's WHERE: seen, 16 calls, 15 of them refused.
    workers = [programs.worker() for _ in range(4)]
    (connected,) = fleet.connect()
    fleet.simulator.fault("latency", delay=0.5)
    wait_until_ready(*workers)
    for _ in range(50):
        another_app.send_task(REFRESH_DUE, args=[connected.id], queue=SWEEP, task_id="delivered-again")
    eventually(lambda: len(programs.says(DONE)) == 50)
    assert sum(bool(worker.says(DONE)) for worker in workers) > 1, "one worker took them all"
    assert fleet.simulator.check().refreshes == 1
    assert fleet.outcomes(connected.id) == [("refreshed", None)]
    assert fleet.holds_the_live_token(connected)
    assert valkey.llen(SWEEP) == 0


def test_prefork_children_refresh_each_connection_once(programs: Programs, fleet: Fleet, another_app: Celery) -> None:
    # Fails without `register_at_fork`: seen, the children work under their parent's name.
    worker = programs.ready_worker("-P", "prefork", "-c", "2")
    connected = fleet.connect(24)
    fleet.simulator.fault("latency", delay=0.1)
    for each in connected:
        another_app.send_task(REFRESH_DUE, args=[each.id], queue=SWEEP)
    eventually(lambda: fleet.simulator.check().refreshes == 24)
    eventually(lambda: len(worker.says(DONE)) == 24)
    assert fleet.simulator.check().calls_per_grant == {1: 24}
    assert all(fleet.holds_the_live_token(each) for each in connected)
    names = {fleet.attempts(each.id)[0].worker for each in connected}
    assert len(names) == 2
    assert not any(name.endswith(f":{worker.pid}") for name in names)
    worker.terminate()
    assert worker.exit_code() == 0
