"""What must hold, at every step of every schedule and at its end; and what DESIGN does not promise, by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from qbo_refresh.status import Outcome, Status
from tests.explore.faults import Fault
from tests.explore.replay import SUBJECT_ID
from tests.explore.schedule import Move, Node, marked
from worker.attempt import Trigger
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections import Counter

    from tests.explore.sameness import Sameness
    from tests.explore.schedule import Scene

# A verdict waits a day in a new epoch, and is asked for every 15 min.
ATTEMPTS_TO_A_VERDICT = 130
ATTEMPTS_TO_RECOVER = 12
REUSED = "reuse of a token"
# What is not promised at a provider that punishes reuse; the last two matter only after another fault. (Of a failover
# DESIGN promises less than that: alone it is survived, by way of the escrow.)
FROZEN = frozenset({"frozen after sending"})
SECOND = frozenset({"failed over", "escrow silent"})


@dataclass(frozen=True, slots=True)
class Violation(Exception):  # it is what was looked for
    """A promise that did not hold."""

    promise: str


@dataclass(slots=True)
class Watch:
    """Compares each place of a schedule with the one before it."""

    scene: Scene
    sameness: Sameness
    excused: Counter[str]
    _settled: set[int] = field(default_factory=set)

    def held(self) -> frozenset[str]:
        """Return the tokens that are in a durable place and that somebody will still look at."""
        world, names = self.scene.world, self.sameness.names
        names.learn(world.provider.values)
        row = world.tables.rows[SUBJECT_ID]
        kept = [each.fingerprint for each in world.tables.candidates if each.settled_at is None]
        kept += [
            each.fingerprint
            for shelf in world.shelves.values()
            if shelf.until > world.seconds
            for each in shelf.copies
            if each.fingerprint not in {other.fingerprint for other in world.tables.candidates if other.settled_at}
        ]
        kept += [name for name in (row.refresh_token_fingerprint, row.previous_refresh_token_fingerprint) if name]
        return frozenset(names.values[name] for name in kept)

    def after(self, before: Node, move: Move, node: Node) -> Node:
        """Return the place with what it excuses. The world must stand there.

        Raises:
            Violation: A promise did not hold on the way.
        """
        provider = self.scene.world.provider
        held = self.held()
        in_hand = {token for attempt in node.attempts for token in attempt.in_hand}
        if provider.overlapping:
            raise Violation("two calls at once with one token")
        node = self._grant_lives(node, held | in_hand)
        if provider.is_alive and provider.current in node.received and "lost" not in node.marks:
            node = self._not_lost(before, move, node, held | in_hand)
        self._no_false_verdict(before.moment.tables.rows[SUBJECT_ID].status, node, held, in_hand)
        return node

    def _grant_lives(self, node: Node, held: frozenset[str] | set[str]) -> Node:
        provider = self.scene.world.provider
        if provider.grant.ended != REUSED or "dead" in node.marks:
            return node
        if provider.current in held:
            excuse = self._excuses(node)
            if not excuse:
                raise Violation("a grant was ended by reuse while its live token was held")
            self.excused["grant ended by reuse: " + ", ".join(sorted(excuse))] += 1
        return marked(node, "dead")

    def _not_lost(self, before: Node, move: Move, node: Node, there: frozenset[str] | set[str]) -> Node:
        token = self.scene.world.provider.current
        if token in there:
            return node
        if Fault.DIES in move.faults and any(token in each.in_hand for each in before.attempts):
            self.excused["token lost: the worker died before a copy was acknowledged"] += 1
        elif move.faults and self._several(node):
            self.excused["token lost by a second fault"] += 1
        elif move.passes and self._several(node):
            self.excused["token lost by the end of the escrow's copy, after two faults"] += 1
        else:
            raise Violation("a token that was received is lost")
        return marked(node, "lost")

    def _no_false_verdict(self, before: Status, node: Node, held: frozenset[str], in_hand: set[str]) -> None:
        provider, row = self.scene.world.provider, self.scene.world.tables.rows[SUBJECT_ID]
        if row.status is not Status.NEEDS_REAUTH or before is Status.NEEDS_REAUTH:
            return
        live = {token for token in held | in_hand if provider.accepts(token)}
        # One that comes back after CONFIRM_AFTER may keep its copy after the other's look into the escrow; its late
        # save takes the verdict back.
        if live - in_hand or (live & held and not self._several(node)):
            raise Violation("needs_reauth while a token that is held would have been accepted")
        if live:
            self.excused["verdict while a frozen worker alone held the live token"] += 1

    def end(self, node: Node) -> None:
        """Let time pass and the sweep do its work. The world must stand at the node, and does not afterwards.

        Raises:
            Violation: It does not come to rest, or not where it should.
        """
        world, provider = self.scene.world, self.scene.world.provider
        provider.let_pass()
        recoverable = any(provider.accepts(token) for token in self.held())
        passed: list[int] = []
        for count in range(ATTEMPTS_TO_A_VERDICT):
            key = hash((self.sameness.world_key({}), recoverable, node.marks))
            if key in self._settled:
                break
            passed.append(key)
            if self._rests():
                break
            if recoverable and count == ATTEMPTS_TO_RECOVER and not self._is_excused(node):
                raise Violation(f"not active after {count} more attempts")
            due = self._due_in()
            if due is None:
                if recoverable and not self._is_excused(node):
                    raise Violation("it rests, and not as an active connection with the live token")
                break
            before = replace(node, moment=world.save())
            world.advance(due)
            if refresh(self.scene.by, SUBJECT_ID, trigger=Trigger.SWEEP).outcome is Outcome.SKIPPED:
                world.advance(timedelta(seconds=61))  # whatever is in the way ends with a lease
            self.after(before, Move("a sweep"), node)
        else:
            raise Violation(f"it does not come to rest within {ATTEMPTS_TO_A_VERDICT} attempts")
        self._settled.update(passed)

    def _excuses(self, node: Node) -> frozenset[str]:
        """Return what excuses the end of a grant."""
        return (FROZEN | SECOND if self._several(node) else FROZEN) & node.marks

    def _several(self, node: Node) -> bool:
        """Whether more than one fault has come."""
        return self.scene.config.faults - node.faults_left > 1

    def _is_excused(self, node: Node) -> bool:
        return bool(self._excuses(node)) and self.scene.world.provider.grant.ended == REUSED

    def _rests(self) -> bool:
        world = self.scene.world
        row = world.tables.rows[SUBJECT_ID]
        return (
            row.status is Status.ACTIVE
            and not row.in_doubt
            and row.lease_id is None
            and row.next_refresh_at is not None
            and row.next_refresh_at > world.now
            and self.sameness.names.values.get(row.refresh_token_fingerprint or b"") == world.provider.current
        )

    def _due_in(self) -> timedelta | None:
        """Return how long it is until the connection may go; None if it never goes again."""
        world = self.scene.world
        row, tables = world.tables.rows[SUBJECT_ID], world.tables
        if row.due_at is None:
            return None
        moments = [row.due_at, tables.app.throttled_until, row.leased_until if row.lease_id else None]
        if tables.control.timeline != world.timeline:
            moments.append(world.now + timedelta(seconds=61))
        elif tables.control.epoch_since is not None:
            moments.append(tables.control.epoch_since + timedelta(seconds=61))
        moments += [block.probe_at for block in tables.app.blocks.values()]
        return max(max(moment for moment in moments if moment is not None) - world.now, timedelta(0))
