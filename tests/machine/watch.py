"""What must hold after every rule, and what more once everything rests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbo_refresh.sealing import Field, Keyring, Place, authorization_place, realm_place
from qbo_refresh.status import Event, Hold, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intuit_simulator import GrantState
    from tests.machine.stage import Stage
    from tests.support.fleet import Connected

QUIET = {Hold.SUSPECT}
FITTING = {
    Status.ACTIVE: set(),
    Status.SUSPECT: {Hold.SUSPECT},
    Status.NEEDS_REAUTH: {Hold.REAUTH},
    Status.DISCONNECTED: {Hold.DISCONNECTED},
}
_REUSED, _BY_US = "reuse of a token", "revoked by the app"
# The escrow is looked up from the version before the row's to eight after it.
_NEAR = range(-1, 9)


@dataclass
class Customer:
    """One company, and the connection that it has or had.

    Attributes:
        was_frozen: An attempt of its stood still past its lease with a token presented; a provider that punishes reuse
            may end the grant for that (DESIGN, not promised).
        doubled: Somebody else refreshes its grant, too.
        said: Row's id → the version, the grant and the token's place in the order of issue that it had last.
        accepted: Fingerprints of tokens that were put into a row by who had just been given them: by Intuit, or a file.
    """

    connected: Connected
    was_frozen: bool = False
    doubled: bool = False
    said: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    accepted: set[bytes] = field(default_factory=set)
    status: str = Status.ACTIVE


@dataclass
class Watch:
    """Looks at everything after a rule."""

    stage: Stage
    customers: Sequence[Customer]

    def look(self) -> None:
        """Check what holds always.

        Raises:
            AssertionError: It does not.
        """
        book = self.stage.book
        states = book.look()
        assert book.wrongs == []
        self.blobs_open()
        for customer in self.customers:
            state, row = states[customer.connected.realm_id], self.row(customer)
            if row is None:
                customer.status = Status.DISCONNECTED
                continue
            self._only_grows(customer, row)
            self._was_accepted(customer, row)
            self._fits(row)
            self._tells_the_truth(customer, row, state)
            self._is_kept(customer, row, state)
            customer.status = row.status

    def row(self, customer: Customer) -> Any:
        """Return the connection's row, or None if it was deleted."""
        return self.stage.fleet.db.execute(
            "SELECT * FROM qbo.connections WHERE id = %(id)s", {"id": customer.connected.id}
        ).one_or_none()

    def is_adopted(self, connection_id: int) -> bool:
        """Tell whether the token that was presented last was a candidate."""
        found = (
            "SELECT EXISTS (SELECT FROM qbo.candidates x JOIN qbo.connections c ON c.id = x.connection_id"
            " WHERE c.id = %(id)s AND x.settled_at IS NOT NULL"
            " AND x.fingerprint IN (c.refresh_token_fingerprint, c.previous_refresh_token_fingerprint)) AS found"
        )
        return bool(self.stage.fleet.db.execute(found, {"id": connection_id}).one().found)

    def held(self, row: Any) -> set[bytes]:
        """Return the fingerprints of the tokens that the connection's next attempts may present."""
        held = {row.refresh_token_fingerprint, row.previous_refresh_token_fingerprint}
        held |= {each.fingerprint for each in self.stage.fleet.candidates(row.id) if each.settled_at is None}
        held |= {
            each.fingerprint
            for each in self.stage.escrow.everything()
            if each is not None
            and (each.connection_id, each.grant_number) == (row.id, row.grant_number)
            and each.base_version - row.token_version in _NEAR
        }
        return held

    def on_the_way(self) -> set[bytes]:
        """Return the fingerprints of what flights have in hand, and of what consents under way left in the escrow."""
        fleet = self.stage.fleet
        waiting = fleet.db.execute(
            "SELECT id FROM qbo.authorizations WHERE used_at IS NOT NULL AND finished_at IS NULL"
        ).all()
        ids = {row.id for row in waiting}
        found = {
            each.fingerprint
            for each in self.stage.escrow.everything()
            if each is not None and each.grant_number == 0 and each.connection_id in ids
        }
        hands = (token for flight in self.stage.flights.values() for token in flight.hand)
        return found | {fleet.fingerprint(token) for token in hands}

    def to_be_revoked(self, row: Any) -> set[bytes]:
        """Return the fingerprints of what the sweep will revoke, with what is in the escrow for it."""
        fleet, keyring = self.stage.fleet, self.stage.config.keyring()
        found: set[bytes] = set()
        for each in fleet.db.execute("SELECT * FROM qbo.revocations WHERE connection_id = %(id)s", {"id": row.id}):
            owner = each.authorization_id or row.id
            if each.refresh_token is not None:
                place = fleet.place(row.id, grant_number=each.grant_number)
                found.add(fleet.lookup.fingerprint(keyring.open(each.refresh_token, place)))
            found |= {
                copy.fingerprint
                for copy in self.stage.escrow.everything()
                if copy is not None and (copy.connection_id, copy.grant_number) == (owner, each.grant_number)
            }
        return found

    def blobs_open(self) -> None:
        """Every sealed value opens where it stands, with the keys that there are, and is what it is said to be."""
        fleet, keyring = self.stage.fleet, self.stage.config.keyring()
        rows = fleet.db.execute("SELECT c.* FROM qbo.connections c").all()
        for row in rows:
            place = fleet.place(row.id, grant_number=row.grant_number)
            realm = keyring.open(row.realm_id, realm_place(fleet.app.environment, row.id))
            assert fleet.lookup.realm_hash(realm) == row.realm_hash
            self._opens(keyring, row.refresh_token, place, row.refresh_token_fingerprint)
            self._opens(keyring, row.previous_refresh_token, place, row.previous_refresh_token_fingerprint)
            if row.access_token is not None:
                keyring.open(row.access_token, fleet.place(row.id, Field.ACCESS_TOKEN, grant_number=row.grant_number))
        for each in fleet.db.execute("SELECT * FROM qbo.candidates").all():
            place = fleet.place(each.connection_id, grant_number=each.grant_number)
            self._opens(keyring, each.refresh_token, place, each.fingerprint)
        for each in fleet.db.execute("SELECT * FROM qbo.revocations WHERE refresh_token IS NOT NULL").all():
            keyring.open(each.refresh_token, fleet.place(each.connection_id, grant_number=each.grant_number))
        for each in fleet.db.execute("SELECT id, code FROM qbo.authorizations WHERE code IS NOT NULL").all():
            keyring.open(each.code, authorization_place(fleet.app.environment, each.id, Field.CODE))

    def escrow_opens(self) -> None:
        """The same for the escrow."""
        fleet, keyring = self.stage.fleet, self.stage.config.keyring()
        for each in self.stage.escrow.everything():
            assert each is not None
            place = fleet.place(each.connection_id, grant_number=each.grant_number)
            if each.grant_number == 0:
                environment = fleet.app.environment
                place = authorization_place(environment, each.connection_id, Field.CONSENTED_REFRESH_TOKEN)
            self._opens(keyring, each.refresh_token, place, each.fingerprint)

    def _opens(self, keyring: Keyring, blob: bytes | None, place: Place, fingerprint: bytes | None) -> None:
        if blob is not None:
            assert self.stage.fleet.lookup.fingerprint(keyring.open(bytes(blob), place)) == fingerprint

    def _only_grows(self, customer: Customer, row: Any) -> None:
        """The version, the grant, and within them the tokens: none of an older grant, none older of the same one."""
        order = self.stage.book.order[customer.connected.realm_id]
        before = customer.said.get(row.id, (0, 0, -1))
        rank = before[2]
        if row.refresh_token_fingerprint is not None:
            marks = [self.stage.fleet.fingerprint(token) for token in order]
            assert row.refresh_token_fingerprint in marks, "a token that Intuit never issued to this company"
            rank = marks.index(row.refresh_token_fingerprint)
        now = (row.token_version, row.grant_number, rank)
        assert all(new >= old for new, old in zip(now, before, strict=True)), f"{before} -> {now}"
        customer.said[row.id] = now

    def _was_accepted(self, customer: Customer, row: Any) -> None:
        """What a row holds was put there by the attempt that Intuit gave it to, and not because it may be live."""
        mark = row.refresh_token_fingerprint
        if mark is None or mark in customer.accepted:
            return
        found = (
            "SELECT EXISTS (SELECT FROM qbo.refresh_attempts WHERE connection_id = %(id)s AND outcome = 'refreshed'"
            " AND fingerprint_after = %(mark)s) AS found"
        )
        assert self.stage.fleet.db.execute(found, {"id": row.id, "mark": mark}).one().found, "a candidate, untried"
        customer.accepted.add(mark)

    def _fits(self, row: Any) -> None:
        """Holds fit the status; events are numbered without a gap, take turns, and end where the row stands."""
        fleet = self.stage.fleet
        holds = fleet.holds(row.id)
        assert holds - {Hold.OPERATOR} == FITTING[Status(row.status)]
        events = fleet.db.execute(
            "SELECT sequence, type FROM qbo.outbox WHERE connection_id = %(id)s ORDER BY id", {"id": row.id}
        ).all()
        assert [each.sequence for each in events] == list(range(1, row.event_sequence + 1))
        told = Counter[str]()
        for each in events:
            _tell(told, Event(each.type))
        assert told["paused"] == bool(holds - QUIET)
        assert told["reauth"] == (row.status == Status.NEEDS_REAUTH)
        assert told["ended"] == (row.status == Status.DISCONNECTED)

    def _tells_the_truth(self, customer: Customer, row: Any, state: GrantState) -> None:
        """Nobody is told to reconnect whose live token is at hand; no grant of an active connection is ended by us."""
        lied = self.stage.book.lies[state.realm_id] > 1
        if row.status == Status.NEEDS_REAUTH != customer.status and self._ours(state) and not lied:
            live = self.stage.fleet.fingerprint(state.refresh_token)
            assert live not in self.held(row), "needs_reauth, and the live token was there"
        if row.status != Status.DISCONNECTED:
            assert state.ended != _BY_US, "the grant of a connection that was not ended"
        if state.ended == _REUSED and self.stage.book.reached(state.refresh_token):
            assert customer.was_frozen or customer.doubled, "a token was presented twice"

    def _is_kept(self, customer: Customer, row: Any, state: GrantState) -> None:
        """What reached us is somewhere; and a row at rest holds what Intuit has as current."""
        if not self._ours(state):
            return
        live = self.stage.fleet.fingerprint(state.refresh_token)
        if row.status == Status.DISCONNECTED:
            known = self.on_the_way() | self.to_be_revoked(row)
            assert live in known, "a live token that nobody will revoke"
            return
        if row.refresh_token_fingerprint == live:
            return
        held = self.held(row)
        assert live in held | self.on_the_way(), "a token that reached us is lost"
        rests = row.lease_id is None and not row.in_doubt and row.status == Status.ACTIVE
        unsettled = any(each.settled_at is None for each in self.stage.fleet.candidates(row.id))
        flies = any(flight.number in (None, self.customers.index(customer)) for flight in self.stage.flights.values())
        assert not rests or unsettled or flies or live in self.on_the_way(), "an older token rests in the row"

    def _ours(self, state: GrantState) -> bool:
        return state.alive and self.stage.book.reached(state.refresh_token)

    def rests(self, *, given_up: set[str]) -> None:
        """Check what holds when all faults have stopped and a day has passed.

        Args:
            given_up: Realms whose grant nobody may end: a worker woke with its token after the row was deleted.
        """
        states = self.stage.book.look()
        for customer in self.customers:
            state, row = states[customer.connected.realm_id], self.row(customer)
            if row is None or row.status == Status.DISCONNECTED:
                assert not self._ours(state) or state.realm_id in given_up, "a live token of an ended connection"
                waiting = "SELECT count(*) AS n FROM qbo.revocations WHERE connection_id = %(id)s"
                assert self.stage.fleet.db.execute(waiting, {"id": customer.connected.id}).one().n == 0
            elif self._ours(state):
                assert row.status == Status.ACTIVE
                assert self.stage.fleet.holds(row.id) <= {Hold.OPERATOR}
                assert row.refresh_token_fingerprint == self.stage.fleet.fingerprint(state.refresh_token)
            else:
                assert row.status != Status.ACTIVE, "a dead grant that nobody has noticed"


def _tell(told: Counter[str], event: Event) -> None:
    """Take one event into account: each must follow from what was told before."""
    match event:
        case Event.SYNC_PAUSED:
            assert not told["paused"]
            told["paused"] = 1
        case Event.SYNC_RESUMED:
            assert told["paused"]
            told["paused"] = 0
        case Event.NEEDS_REAUTH:
            assert not told["reauth"]
            assert not told["ended"]
            told["reauth"] = 1
        case Event.RECOVERED:
            assert told["reauth"]
            told["reauth"] = 0
        case Event.RECONNECTED:
            told["reauth"] = told["ended"] = told["second"] = 0
        case Event.DISCONNECTED:
            assert not told["ended"]
            told["reauth"], told["ended"] = 0, 1
        case Event.SECOND_WRITER:
            assert not told["second"]
            told["second"] = 1
        case _:
            pass
