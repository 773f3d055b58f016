"""One lap: a fresh process, a warm-up, all messages laid out before it may take the first, then the measured part."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import Celery

from benchmarks import fleet
from benchmarks.measure import Lap, cpu_seconds
from benchmarks.stage import CouldNotRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measure import Scenario
    from benchmarks.stage import Process, Stage

CONTENDERS = ("bare", "handwritten", "worker", "empty")
# Only when asked for.
VARIANTS = ("handwritten_once",)
WARM_UP = 200
LIMIT_S = 180
_LOOK_EVERY_S = 0.05
_AFTER_THE_LAST_MESSAGE_S = 30


class Queue(NamedTuple):
    """A Celery contender: its app, its queues, where its messages wait and where those that were taken are kept."""

    app: str
    listens: str
    name: str
    unacked: str
    task: str


QUEUES = {
    "handwritten": Queue(
        "benchmarks.contenders.handwritten", "handwritten", "handwritten", "unacked", "handwritten.refresh"
    ),
    "handwritten_once": Queue(
        "benchmarks.contenders.handwritten_once", "handwritten", "handwritten", "unacked", "handwritten.refresh"
    ),
    "empty": Queue("benchmarks.contenders.empty", "empty", "empty", "unacked", "empty.nothing"),
    "worker": Queue("worker.app", "qbo.sweep,qbo.adhoc,qbo.events", "qbo.sweep", "qbo.unacked", ""),
}


class Spent(NamedTuple):
    """What a number of refreshes took."""

    seconds: float
    cpu_s: float
    simulator_s: float


def run(stage: Stage, scenario: Scenario, contender: str, sweeper: Process) -> Lap:
    """Run one lap of a contender.

    Raises:
        CouldNotRun: A refresh failed, the process died, or it took longer than LIMIT_S.
    """
    do = _bare if contender == "bare" else _celery
    arguments = ["-m", "benchmarks.contenders.bare"] if contender == "bare" else _command(contender, scenario)
    stage.db.execute("VACUUM ANALYZE")
    with stage.start(*arguments, concurrency=scenario.concurrency) as process:
        do(stage, process, contender, min(scenario.count, max(WARM_UP, 3 * scenario.concurrency)), sweeper)
        spent = do(stage, process, contender, scenario.count, sweeper)
    return Lap(scenario.name, contender, scenario.count, *spent)


def _command(contender: str, scenario: Scenario) -> list[str]:
    """Return the Procfile's command with this number of threads, and the like of it for the others."""
    queue = QUEUES[contender]
    threads = str(scenario.concurrency)
    return ["-m", "celery", "-A", queue.app, "worker", "-P", "threads", "-c", threads, "-E", "-Q", queue.listens]


def _bare(stage: Stage, process: Process, _contender: str, count: int, _sweeper: Process) -> Spent:
    process.check()
    before, began = _cpu(stage, process), time.perf_counter()
    process.order(count=count)
    return _spent(stage, process, before, time.perf_counter() - began)


def _celery(stage: Stage, process: Process, contender: str, count: int, sweeper: Process) -> Spent:
    queue = QUEUES[contender]
    # A stopped process: publishing is not in its time, and it does not compete for the cores with its own messages.
    process.freeze()
    if contender == "worker":
        fleet.make_due(stage, count)
        sweeper.order()
    else:
        _publish(stage, queue, count)
    _expect(stage, queue, count)
    began_at, before, began = fleet.clock(stage.db), _cpu(stage, process), time.perf_counter()
    process.thaw()
    _wait(process, lambda: _waiting(stage, queue) == 0, LIMIT_S)
    seconds = time.perf_counter() - began
    if contender != "empty":
        # By the rows, not by when we looked.
        _wait(
            process, lambda: fleet.finished(stage.db, contender, since=began_at)[0] >= count, _AFTER_THE_LAST_MESSAGE_S
        )
        seconds = (fleet.finished(stage.db, contender, since=began_at)[1] - began_at).total_seconds()
    return _spent(stage, process, before, seconds)


def _publish(stage: Stage, queue: Queue, count: int) -> None:
    producer: Any
    with Celery(broker=stage.env["REDIS_URL"]) as app, app.producer_pool.acquire(block=True) as producer:
        for number in range(1, count + 1):
            app.send_task(queue.task, (number,), queue=queue.name, producer=producer)


def _expect(stage: Stage, queue: Queue, count: int) -> None:
    # A message may have been on its way to the process when that was stopped.
    waiting = _waiting(stage, queue)
    if waiting not in (count, count - 1):
        raise CouldNotRun(f"{waiting} messages wait in {queue.name} instead of {count}.")


def _waiting(stage: Stage, queue: Queue) -> int:
    with stage.broker.pipeline(transaction=False) as pipe:
        pipe.llen(queue.name)
        pipe.hlen(queue.unacked)
        return sum(map(int, pipe.execute()))


def _wait(process: Process, is_so: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        process.check()
        if time.monotonic() > end:
            raise process.failure()
        time.sleep(_LOOK_EVERY_S)


def _cpu(stage: Stage, process: Process) -> tuple[float, float]:
    return cpu_seconds(process.pid), cpu_seconds(stage.simulator.pid)


def _spent(stage: Stage, process: Process, before: tuple[float, float], seconds: float) -> Spent:
    cpu_s, simulator_s = _cpu(stage, process)
    return Spent(seconds, cpu_s - before[0], simulator_s - before[1])
