"""A schedule: which moves there are at each place, and what each makes of the world and of its attempts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

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

    from intuit_simulator.policy import PolicyName
    from worker.refresh import Refresher

WITNESS_ID = 1
AT_ONCE = 2
PASSES = {
    "the lease": timedelta(seconds=61),
    "CONFIRM_AFTER": timedelta(minutes=16),
}
LONG = timedelta(hours=1)
A_DAY = timedelta(hours=26)


MARKS = {Fault.LIE: "lied to", Fault.SILENT: "escrow silent"}


@dataclass(frozen=True, slots=True)
class Config:
    """What is searched.

    Attributes:
        attempts: So many in a schedule, two at once at most.
        faults: So many at most.
        witness: Another connection of the app works all the time.
        only: These faults alone; None for all.
        design: Puts a worker together; the wrong ones are in `designs`.
    """

    policy: PolicyName
    witness: bool = True
    attempts: int = 4
    faults: int = 1
    only: frozenset[Fault] | None = None
    design: Callable[[World], Refresher] = worker.refresher


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a schedule.

    Attributes:
        number: Of the attempt that makes it; None for time and servers.
        faults: What goes wrong in it.
        passes: So much time does.
        loses: So many commits are lost.
    """

    text: str
    number: int | None = None
    faults: tuple[Fault, ...] = ()
    passes: timedelta | None = None
    loses: int = 0


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
        ways = [self._steps(attempt) for attempt in node.attempts]
        more = node.begun < self.config.attempts
        if more and len(node.attempts) < AT_ONCE:
            ways.append(self._steps(Attempt(node.begun + 1)))
        if not node.time_moved and (more or node.attempts):
            ways.append(self._pauses(node))
        if node.faults_left:
            ways.append(self._disasters(node))
        return (move for way in ways for move in way if self._may_come(node, move))

    def _may_come(self, node: Node, move: Move) -> bool:
        if len(move.faults) > node.faults_left:
            return False
        # Two false refusals of one connection, 15 min apart beside a witness, are what a verdict is made of.
        if Fault.LIE in move.faults and "lied to" in node.marks:
            return False
        only = self.config.only
        return only is None or all(fault in only for fault in move.faults)

    @staticmethod
    def _steps(attempt: Attempt) -> Iterator[Move]:
        call, number = attempt.next_call, attempt.number
        assert call is not None
        yield Move(f"attempt {number}: {call}", number)
        for fault in faults.AT.get(call, ()):
            yield Move(f"attempt {number}: {call}: {fault}", number, (fault,))
        if attempt.answered:
            yield Move(f"attempt {number}: the worker dies before {call}", number, (Fault.DIES,))

    @staticmethod
    def _pauses(node: Node) -> Iterator[Move]:
        row, now = node.moment.tables.rows[SUBJECT_ID], START + timedelta(seconds=node.moment.seconds)
        ahead = timedelta(0) if row.due_at is None else row.due_at - now
        frozen = (Fault.FROZEN,) if node.attempts else ()
        who = f" while attempt {node.attempts[0].number} is frozen" if node.attempts else ""
        for name, time in PASSES.items():
            yield Move(f"{name} passes{who}", None, frozen, passes=time)
        if ahead > LONG:
            yield Move(f"time passes until it is due{who}", None, frozen, passes=ahead + timedelta(minutes=1))
        else:
            yield Move(f"a day passes without a sweep{who}", None, (*frozen, Fault.UNSWEPT), passes=A_DAY)

    @staticmethod
    def _disasters(node: Node) -> Iterator[Move]:
        if node.moment.shelves:
            yield Move("FLUSHALL", None, (Fault.FLUSHED,))
        for lost in range(min(LOSABLE, len(node.moment.before)) + 1):
            text = f"PostgreSQL fails over and loses {lost} commits"
            yield Move(text, None, (Fault.FAILED_OVER,), loses=lost)

    def play(self, node: Node, move: Move) -> Node:
        """Return where a move leads. The world is left there."""
        self.world.restore(node.moment)
        attempts = {each.number: each for each in node.attempts}
        marks, received = node.marks, node.received
        if move.number is not None:
            attempt = attempts.pop(move.number, None) or Attempt(move.number)
            if Fault.DIES not in move.faults:
                attempt = replay.step(attempt, self.by, self.world, move.faults[0] if move.faults else None)
                received |= set(attempt.received)
                if attempt.next_call is not None:
                    attempts[move.number] = attempt
        elif move.passes is not None:
            if any(each.has_sent for each in node.attempts):
                marks |= {"frozen after sending"}
            self.world.advance(move.passes)
        elif Fault.FAILED_OVER in move.faults:
            self.world.fail_over(move.loses)
            marks |= {"failed over"} if move.loses else set()
        else:
            self.world.flush()
        return Node(
            self.world.save(),
            tuple(attempts[number] for number in sorted(attempts)),
            max(node.begun, move.number or 0),
            node.faults_left - len(move.faults),
            time_moved=move.passes is not None,
            received=received,
            marks=marks | {mark for fault, mark in MARKS.items() if fault in move.faults},
        )

    def is_end(self, node: Node) -> bool:
        """Whether all attempts have been made and none is under way."""
        return node.begun == self.config.attempts and not node.attempts


def marked(node: Node, *marks: str) -> Node:
    """Return the same place with something noted that excuses what follows."""
    return replace(node, marks=node.marks | set(marks))
