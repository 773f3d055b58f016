"""One lap: a fresh process, a warm-up, all messages laid out before it may take the first, then the measured part."""

from __future__ import annotations

import contextlib
import shlex
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import Celery

from benchmarks import fleet
from benchmarks.measure import Lap, cpu_seconds
from benchmarks.stage import ROOT, CouldNotRun, Crew

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measure import Scenario
    from benchmarks.stage import Process, Stage

CONTENDERS = ("bare", "handwritten", "worker", "worker_alone", "empty")
# Only when asked for.
VARIANTS = ("handwritten_once",)
WARM_UP = 200
LIMIT_S = 180
_LOOK_EVERY_S = 0.05
_AFTER_THE_LAST_MESSAGE_S = 30


class Queue(NamedTuple):
    """A Celery contender: its app, its queues, where its messages wait and where those that were taken are kept.

    Attributes:
        task: The task that is sent; empty if a sweep sends it.
    """

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
QUEUES["worker_alone"] = QUEUES["worker"]


class Spent(NamedTuple):
    """What a number of refreshes took."""

    seconds: float
    cpu_s: float
    simulator_s: float
    exposed_ms: tuple[float, float] | None = None


def run(stage: Stage, scenario: Scenario, contender: str, sweeper: Process) -> Lap:
    """Run one lap of a contender.

    Raises:
        CouldNotRun: A refresh failed, the process died, or it took longer than LIMIT_S.
    """
    do = _bare if contender == "bare" else _celery
    stage.db.execute("VACUUM ANALYZE")
    with contextlib.ExitStack() as ending:
        crew = Crew(
            [
                ending.enter_context(stage.start(*arguments, concurrency=scenario.concurrency))
                for arguments in _commands(contender, scenario.concurrency)
            ]
        )
        if do is _celery:
            _await_all(stage, crew)
        do(stage, crew, contender, min(scenario.count, max(WARM_UP, 3 * scenario.concurrency)), sweeper)
        spent = do(stage, crew, contender, scenario.count, sweeper)
    return Lap(scenario.name, contender, scenario.count, *spent)


def _commands(contender: str, in_flight: int) -> list[list[str]]:
    """Return the arguments of each process of a contender: the Procfile's worker, or like it, as often as need be."""
    if contender == "bare":
        return [["-m", "benchmarks.contenders.bare"]]
    programs = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    command = shlex.split(programs["worker"])
    threads = command[command.index("-c") + 1]
    mine, worker = QUEUES[contender], QUEUES["worker"]
    other = {worker.app: mine.app, worker.listens: mine.listens}
    processes = in_flight // int(threads)
    if contender == "worker_alone":
        other[threads], processes = str(in_flight), 1
    alike = [other.get(word, word) for word in command]
    return [["-m", *alike, "-n", f"{contender}-{number}@%h"] for number in range(processes)]


def _await_all(stage: Stage, crew: Crew) -> None:
    """Return when each takes messages: whoever came late would not be warm."""
    with Celery(broker=stage.env["REDIS_URL"]) as app:
        _wait(crew, lambda: len(app.control.ping(timeout=1, limit=len(crew)) or ()) == len(crew), LIMIT_S)


def _bare(stage: Stage, crew: Crew, _contender: str, count: int, _sweeper: Process) -> Spent:
    crew.check()
    before, began = _cpu(stage, crew), time.perf_counter()
    crew.order(count=count)
    return _spent(stage, crew, before, time.perf_counter() - began)


def _celery(stage: Stage, crew: Crew, contender: str, count: int, sweeper: Process) -> Spent:
    queue = QUEUES[contender]
    # Stopped processes: publishing is not in their time, and they do not compete for the cores with their own messages.
    crew.freeze()
    if not queue.task:
        fleet.make_due(stage, count)
        sweeper.order()
    else:
        _publish(stage, queue, count)
    _expect(stage, queue, count, of=len(crew))
    began_at, before, began = fleet.clock(stage.db), _cpu(stage, crew), time.perf_counter()
    crew.thaw()
    _wait(crew, lambda: _waiting(stage, queue) == 0, LIMIT_S)
    seconds = time.perf_counter() - began
    if contender != "empty":
        # By the rows, not by when we looked.
        _wait(crew, lambda: fleet.finished(stage.db, contender, since=began_at)[0] >= count, _AFTER_THE_LAST_MESSAGE_S)
        seconds = (fleet.finished(stage.db, contender, since=began_at)[1] - began_at).total_seconds()
    spent = _spent(stage, crew, before, seconds)
    return spent if queue.task else spent._replace(exposed_ms=fleet.exposed_ms(stage.db, since=began_at))


def _publish(stage: Stage, queue: Queue, count: int) -> None:
    producer: Any
    with Celery(broker=stage.env["REDIS_URL"]) as app, app.producer_pool.acquire(block=True) as producer:
        for number in range(1, count + 1):
            app.send_task(queue.task, (number,), queue=queue.name, producer=producer)


def _expect(stage: Stage, queue: Queue, count: int, *, of: int) -> None:
    # A message may have been on its way to each process when that was stopped.
    waiting = _waiting(stage, queue)
    if not count - of <= waiting <= count:
        raise CouldNotRun(f"{waiting} messages wait in {queue.name} instead of {count}.")


def _waiting(stage: Stage, queue: Queue) -> int:
    with stage.broker.pipeline(transaction=False) as pipe:
        pipe.llen(queue.name)
        pipe.hlen(queue.unacked)
        return sum(map(int, pipe.execute()))


def _wait(crew: Crew, is_so: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        crew.check()
        if time.monotonic() > end:
            raise crew.failure()
        time.sleep(_LOOK_EVERY_S)


def _cpu(stage: Stage, crew: Crew) -> tuple[float, float]:
    return crew.cpu_seconds(), cpu_seconds(stage.simulator.pid)


def _spent(stage: Stage, crew: Crew, before: tuple[float, float], seconds: float) -> Spent:
    cpu_s, simulator_s = _cpu(stage, crew)
    return Spent(seconds, cpu_s - before[0], simulator_s - before[1])
