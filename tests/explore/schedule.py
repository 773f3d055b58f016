"""A schedule: which moves there are at each place, and what each makes of the world and of its attempts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from intuit_simulator.policy import PolicyName
from qbo_refresh.sealing import Field, Place
from qbo_refresh.secret import Secret
from tests.explore import faults, replay, worker
from tests.explore.faults import Fault
from tests.explore.provider import Provider
from tests.explore.replay import SUBJECT_ID, Attempt
from tests.explore.tables import START, Row, Tables
from tests.explore.world import LOSABLE, Moment, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.refresh import Refresher

WITNESS_ID = 1
AT_ONCE = 2
PASSES = {
    "the lease": timedelta(seconds=61),
    "CONFIRM_AFTER": timedelta(minutes=16),
}
LONG = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Config:
    """What is searched.

    Attributes:
        attempts: So many in a schedule, two at once at most.
        faults: So many at most.
        witness: Another connection of the app works all the time.
        design: Puts a worker together; the wrong ones are in `designs`.
    """

    policy: PolicyName
    witness: bool = True
    attempts: int = 4
    faults: int = 1
    design: Callable[[World], Refresher] = worker.refresher


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a schedule: time or a server, or attempt `number` and what it calls.

    Attributes:
        costs: How many faults it is.
    """

    text: str
    number: int | None = None
    fault: Fault | None = None
    crash: bool = False
    passes: timedelta | None = None
    loses: int | None = None
    costs: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A place in a schedule.

    Attributes:
        attempts: Those under way.
        begun: How many have begun.
        faults_left: How many may still come.
        time_moved: Time has passed since the last attempt moved.
        received: Tokens that an attempt was ever given.
        marks: What has happened that excuses something.
    """

    moment: Moment
    attempts: tuple[Attempt, ...]
    begun: int
    faults_left: int
    time_moved: bool = False
    received: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()


class Scene:
    """A world with the connection in question, and a worker: what a schedule is played on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.world = World(Provider(config.policy), witness_id=WITNESS_ID if config.witness else None)
        token = Secret(self.world.provider.current)
        place = Place("sandbox", SUBJECT_ID, 1, Field.REFRESH_TOKEN)
        blob, name = worker.KEYRING.seal(token, place), worker.LOOKUP.fingerprint(token)
        row = Row(id=SUBJECT_ID, refresh_token=blob, refresh_token_fingerprint=name, known_fingerprint=name)
        rows = {SUBJECT_ID: row}
        if config.witness:
            rows[WITNESS_ID] = Row(id=WITNESS_ID, refresh_token=None, refresh_token_fingerprint=None)
        self.world.tables = Tables(rows=rows)
        if config.witness:
            self.world.refresh_witness()
        self.by = config.design(self.world)

    def first(self) -> Node:
        """Return where every schedule begins."""
        return Node(self.world.save(), (), 0, self.config.faults)

    def moves(self, node: Node) -> Iterator[Move]:
        """Yield what may come next, the ordinary before the faults."""
        spare = node.faults_left
        for attempt in node.attempts:
            yield from self._steps(attempt, spare)
        if node.begun < self.config.attempts and len(node.attempts) < AT_ONCE:
            yield from self._steps(Attempt(node.begun + 1), spare)
        if not node.time_moved and node.begun < self.config.attempts + bool(node.attempts):
            yield from (move for move in self._pauses(node) if move.costs <= spare)
        if spare:
            yield from self._disasters(node)

    @staticmethod
    def _pauses(node: Node) -> Iterator[Move]:
        """Yield how time may pass. While an attempt stands still, or nobody sweeps what has been due all day, it is a fault."""
        row, now = node.moment.tables.rows[SUBJECT_ID], START + timedelta(seconds=node.moment.seconds)
        ahead = timedelta(0) if row.due_at is None else row.due_at - now
        pauses = [(f"{name} passes", time, 0) for name, time in PASSES.items()]
        if ahead > LONG:
            pauses.append(("the time passes until it is due", ahead + timedelta(minutes=1), 0))
        else:
            pauses.append(("a day passes without a sweep", timedelta(hours=26), 1))
        for text, time, costs in pauses:
            if node.attempts:
                who = f"{text} while attempt {node.attempts[0].number} is frozen"
                yield Move(who, passes=time, costs=costs + 1)
            else:
                yield Move(text, passes=time, costs=costs)

    @staticmethod
    def _steps(attempt: Attempt, spare: int) -> Iterator[Move]:
        call, number = attempt.next_call, attempt.number
        assert call is not None
        yield Move(f"attempt {number}: {call}", number)
        if not spare:
            return
        for fault in faults.AT.get(call, ()):
            yield Move(f"attempt {number}: {call}: {fault}", number, fault, costs=1)
        if attempt.answered:
            yield Move(f"attempt {number} dies before {call}", number, crash=True, costs=1)

    @staticmethod
    def _disasters(node: Node) -> Iterator[Move]:
        if node.moment.shelves:
            yield Move("FLUSHALL", costs=1)
        for lost in range(min(LOSABLE, len(node.moment.before)) + 1):
            yield Move(f"PostgreSQL fails over and loses {lost} commits", loses=lost, costs=1)

    def play(self, node: Node, move: Move) -> Node:
        """Return where a move leads. The world is left there."""
        world = self.world
        world.restore(node.moment)
        attempts, begun, marks = {each.number: each for each in node.attempts}, node.begun, node.marks
        received = node.received
        if move.number is not None:
            attempt = attempts.get(move.number) or Attempt(move.number)
            begun = max(begun, move.number)
            if move.crash:
                del attempts[move.number]
            else:
                attempt = attempts[move.number] = replay.step(attempt, self.by, world, move.fault)
                received |= set(attempt.received)
                if attempt.next_call is None:
                    del attempts[move.number]
        elif move.passes is not None:
            if any(each.has_sent for each in node.attempts):
                marks |= {"frozen after sending"}
            world.advance(move.passes)
        elif move.loses is not None:
            world.fail_over(move.loses)
            marks |= {"failed over"} if move.loses else set()
        else:
            world.flush()
        if move.fault is Fault.LIE:
            marks |= {"lied to"}
        return Node(
            world.save(),
            tuple(attempts.values()),
            begun,
            node.faults_left - move.costs,
            time_moved=move.passes is not None,
            received=received,
            marks=marks,
        )

    def is_end(self, node: Node) -> bool:
        """Whether all attempts have been made and none is under way."""
        return node.begun == self.config.attempts and not node.attempts


def marked(node: Node, *marks: str) -> Node:
    """Return the same place with something noted that excuses what follows."""
    return replace(node, marks=node.marks | set(marks))
