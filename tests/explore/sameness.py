"""When two places of schedules are the same: nothing that any code asks tells them apart. Found by a search, merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbo_refresh.secret import Secret
from tests.explore import worker
from tests.explore.provider import Reply
from tests.explore.replay import SUBJECT_ID
from worker.attempt import Candidate, Claim, Received
from worker.policy import Decision
from worker.tokens import TokenSet

if TYPE_CHECKING:
    from datetime import datetime

    from tests.explore.replay import Answered, Attempt
    from tests.explore.schedule import Node
    from tests.explore.tables import Row, Tables
    from tests.explore.world import World


class Names:
    """Tokens by the order in which their grant issued them: their values are random."""

    def __init__(self) -> None:
        self._of_value: dict[str, int] = {}
        self._of_fingerprint: dict[bytes, int] = {}
        self.values: dict[bytes, str] = {}

    def learn(self, values: list[str]) -> None:
        """Take note of a grant's tokens, oldest first."""
        for number, value in enumerate(values):
            if value not in self._of_value:
                fingerprint = worker.LOOKUP.fingerprint(Secret(value))
                self._of_value[value] = self._of_fingerprint[fingerprint] = number
                self.values[fingerprint] = value

    def value(self, value: str | None) -> int | None:
        """Return a token's number."""
        return None if value is None else self._of_value[value]

    def fingerprint(self, fingerprint: bytes | None) -> int | None:
        """Return a token's number by its fingerprint."""
        return None if fingerprint is None else self._of_fingerprint[fingerprint]


class Sameness:
    """Makes the keys by which places are compared."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.names = Names()
        self._answers: dict[int, tuple[Answered, int]] = {}

    def key(self, node: Node) -> int:
        """Return a number that is the same for places that are the same. The world must stand at the node."""
        self.names.learn(self._world.provider.values)
        leases = {each.claim.lease_id: place for place, each in enumerate(node.attempts) if each.claim is not None}
        before = [self._tables(tables, leases) for _, tables in node.moment.before] if node.faults_left else []
        return hash(
            (
                self.world_key(leases),
                tuple(before),
                tuple(self._attempt(each) for each in node.attempts),
                node.begun,
                node.faults_left,
                node.time_moved,
                node.marks,
                frozenset(self.names.value(value) for value in node.received),
            )
        )

    def world_key(self, leases: dict[Any, int]) -> int:
        """Return the same for worlds that are the same, whoever has looked at them."""
        world, provider = self._world, self._world.provider
        self.names.learn(provider.values)
        tokens = [*provider.grant.superseded, provider.grant.current]
        grace = provider.policy.grace_seconds
        return hash(
            (
                self._tables(world.tables, leases),
                world.tables.control.timeline == world.timeline,
                tuple(
                    (base, tuple(self.names.fingerprint(each.fingerprint) for each in shelf.copies),
                     round(shelf.until - world.seconds))
                    for (_, _, base), shelf in sorted(world.shelves.items())
                    if shelf.until > world.seconds
                ),
                provider.grant.ended,
                tuple(
                    (
                        None if each.superseded_at is None else min(round(world.seconds - each.superseded_at), grace),
                        each.open_calls,
                    )
                    for each in tokens
                ),
                min(round(world.seconds - provider.grant.current.issued_at), provider.policy.rotate_after_seconds),
                tuple(self.names.value(value) for value in provider.open),
                tuple(self.names.value(value) for value in provider.late),
            )
        )  # fmt: skip

    def _tables(self, tables: Tables, leases: dict[Any, int]) -> int:
        since = tables.control.epoch_since
        return hash(
            (
                self._row(tables.rows[SUBJECT_ID], since, leases),
                tuple(
                    (
                        self.names.fingerprint(kept.fingerprint),
                        kept.base_version,
                        kept.settled_at is None and (kept.tried_at is None or self._ago(kept.tried_at)),
                        kept.settled_at is None and self._ago(kept.refused_again_at),
                    )
                    for kept in tables.candidates
                ),
                self._ago(since),
                since is not None and tables.has_concluded_since(SUBJECT_ID, since),
                self._ahead(tables.app.throttled_until),
                self._ago(tables.app.guard_tripped_at),
                tuple((block.blocked_at is None, self._ahead(block.probe_at)) for block in tables.app.blocks.values()),
                tuple(
                    (place, tables.ledger[lease].outcome) for lease, place in leases.items() if lease in tables.ledger
                ),
            )
        )

    def _row(self, row: Row, epoch_since: datetime | None, leases: dict[Any, int]) -> tuple[Any, ...]:
        return (
            row.status,
            row.token_version,
            self.names.fingerprint(row.refresh_token_fingerprint),
            self.names.fingerprint(row.previous_refresh_token_fingerprint),
            self.names.fingerprint(row.known_fingerprint),
            leases.get(row.lease_id, -1) if row.lease_id else None,
            self._ahead(row.leased_until) if row.lease_id else None,
            row.in_doubt,
            epoch_since is not None and (row.attempt_began_at is None or row.attempt_began_at < epoch_since),
            self._ahead(row.next_refresh_at) if row.next_refresh_at else None,
            self._ahead(row.not_before),
            min(row.failures, 7),
            self._ago(row.suspect_since),
            self._ago(row.needs_reauth_since),
            row.last_reason,
            row.second_writer_at is None,
        )

    def _ago(self, moment: datetime | None) -> int | None:
        return None if moment is None else round((self._world.now - moment).total_seconds())

    def _ahead(self, moment: datetime | None) -> int:
        return 0 if moment is None else max(0, round((moment - self._world.now).total_seconds()))

    def _attempt(self, attempt: Attempt) -> tuple[Any, ...]:
        seconds = self._world.seconds
        return (
            attempt.next_call,
            tuple((each.call, self._answer(each), each.at - seconds) for each in attempt.answered),
            attempt.row_refuses,
        )

    def _answer(self, answered: Answered) -> int:
        known = self._answers.get(id(answered))
        if known is None:
            said = answered.returned if answered.raised is None else answered.raised
            known = self._answers[id(answered)] = (answered, hash(self._said(said)))
        return known[1]

    def _said(self, said: Any) -> Any:  # noqa: PLR0911  # a table
        match said:
            case Claim():
                standing = said.standing
                return (
                    said.token_version,
                    self.names.fingerprint(said.fingerprint),
                    (standing.status, standing.failures, standing.in_doubt, standing.reason),
                    standing.suspect_since and (said.claimed_at - standing.suspect_since).total_seconds(),
                    standing.needs_reauth_since and (said.claimed_at - standing.needs_reauth_since).total_seconds(),
                    (said.has_candidates, said.is_new_epoch, said.is_foreign, said.probing, len(said.blocked)),
                )
            case TokenSet():
                return self.names.value(said.refresh_token.reveal())
            case Reply():
                return said.status, self.names.value(said.token)
            case Decision():
                return said.outcome, said.reason, said.withheld
            case Candidate() | Received():
                return self.names.fingerprint(said.fingerprint), said.base_version
            case list() | tuple():
                return tuple(self._said(each) for each in said)
            case Exception():
                return type(said).__name__, getattr(said, "reason", None)
            case _:
                return said
