"""What every rule needs: the example's state, flights that begin and end, and what they came to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from qbo_refresh.secret import Secret
from qbo_refresh.status import Authorized, Ending, Outcome, Status
from worker.consent import Exchanged
from worker.ending import Ended
from worker.exchange import exchange
from worker.refresh import Result
from worker.resealing import Report

if TYPE_CHECKING:
    from collections import Counter
    from datetime import timedelta

    from tests.machine.flights import Flight
    from tests.machine.intuit import Book
    from tests.machine.stage import Config, Process, Stage, Stop
    from tests.machine.watch import Customer, Watch
    from tests.machine.world import World
    from tests.support.fleet import Fleet

# What Intuit answers once.
ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "503": ("unavailable", {}),
    "503 after all": ("unavailable", {"rotate": True}),
    "html after all": ("html", {}),
    "nothing": ("drop", {}),
    "nothing after all": ("drop", {"rotate": True}),
    "cut": ("cut", {"after_bytes": 40, "of": "body"}),
    "cut near the end": ("cut", {"after_bytes": 1000, "of": "body"}),
    "429": ("throttled", {}),
    "invalid_client": ("invalid_client", {}),
    "invalid_request": ("answer", {"status": 400, "error": "invalid_request"}),
    "a wrong invalid_grant": ("invalid_grant", {}),
}
REFRESHES: list[Stop] = [
    ("store", "claim", "after"),
    ("intuit", "refresh", "before"),
    ("intuit", "refresh", "after"),
    ("escrow", "put", "after"),
    ("store", "save", "before"),
    ("store", "save", "after"),
    ("store", "conclude", "before"),
]
EXCHANGES: list[Stop] = [
    ("store", "claim", "after"),
    ("intuit", "exchange", "before"),
    ("intuit", "exchange", "after"),
    ("escrow", "put", "after"),
    ("store", "install", "before"),
    ("store", "install", "after"),
]
ENDS: list[Stop] = [
    ("store", "disconnect", "after"),
    ("escrow", "find", "before"),
    ("intuit", "revoke", "before"),
    ("intuit", "revoke", "after"),
    ("store", "revoked", "before"),
]
# What a run must have seen of each policy: a machine that never does it checks nothing of it.
KINDS = (
    "refreshed",
    "connected",
    "disconnected",
    "revoked",
    "resealed",
    "refresh overtaken",
    "reseal overtaken",
    "candidate adopted",
)
numbers, workers, flags = st.integers(0, 1), st.integers(0, 1), st.booleans()


def stops(places: list[Stop]) -> st.SearchStrategy[Stop | None]:
    """Draw where a use case stands still; None for nowhere."""
    return st.none() | st.sampled_from(places)


class Scene(RuleBasedStateMachine):
    """Two connections, two workers, one provider, one host; no rules yet."""

    world: ClassVar[World]
    policy: ClassVar[str]
    ran: ClassVar[Counter[str]]
    stage: Stage
    book: Book
    fleet: Fleet
    customers: list[Customer]
    watch: Watch
    given_up: set[str]
    outside: list[tuple[str, timedelta] | None]
    secrets: list[str]

    def _exchange(self, authorization_id: int, by: Process, stop: Stop | None) -> None:
        self.stage.fly("exchange", None, by, lambda _, to, _ender: exchange(to, authorization_id), stop)

    def _waiting(self) -> list[int]:
        rows = self.fleet.db.execute(
            "SELECT id FROM qbo.authorizations WHERE used_at IS NOT NULL AND finished_at IS NULL ORDER BY id"
        )
        return [row.id for row in rows]

    def _arm(self, answer: str, number: int | None, endpoint: str) -> None:
        if answer != "well":
            kind, options = ANSWERS[answer]
            realms = None if number is None else [self.customers[number].connected.realm_id]
            self.fleet.simulator.fault(kind, count=1, realm_ids=realms, endpoint=endpoint, **options)

    def _end(self, flight: Flight, *, kill: bool) -> None:
        late = self.stage.is_late(flight)
        flight.go_on(kill=kill)
        self._settle()
        if kill:
            # Where nobody looks any more once the lease is over: a second fault, after the freeze.
            self._forgive(flight.hand, whatever=late)

    def _settle(self) -> None:
        """Take note of what is over."""
        for flight in self.stage.settle():
            self.ran[flight.what] += 1
            result = flight.result()
            self._count(result)
            is_gone = isinstance(result, Result) and result.reason == "deleted"
            if is_gone or getattr(result, "reason", None) == "unknown_authorization":
                self.given_up |= {realm for realm, tokens in self.book.order.items() if flight.hand & set(tokens)}
        self._find_born()

    def _count(self, result: object) -> None:
        match result:
            case Result(outcome=Outcome.REFRESHED):
                self.ran["refreshed"] += 1
                self.ran["candidate adopted"] += self.watch.is_adopted(result.connection_id)
            case Result(reason="overtaken"):
                self.ran["refresh overtaken"] += 1
            case Exchanged(outcome=Authorized.CONNECTED):
                self.ran["connected"] += 1
            case Ended(outcome=Ending.DISCONNECTED):
                self.ran["disconnected"] += 1
                self.ran["revoked"] += bool(result.revoked)
            case int():  # of the sweep
                self.ran["revoked"] += result
            case Report():
                self.ran["resealed"] += result.sealed
                self.ran["reseal overtaken"] += result.overtaken
            case _:
                pass

    def _find_born(self) -> None:
        """Note which connections a consent has made anew."""
        for customer in self.customers:
            if self.watch.row(customer) is None:
                realm_hash = self.fleet.lookup.realm_hash(Secret(customer.connected.realm_id))
                row = self.fleet.db.execute(
                    "SELECT id FROM qbo.connections WHERE realm_hash = %(hash)s", {"hash": realm_hash}
                ).one_or_none()
                if row is not None:
                    customer.connected = replace(customer.connected, id=row.id)

    def _forgive(self, tokens: Any, *, whatever: bool = False) -> None:
        """Forgive the loss of those of these tokens that are nowhere any more."""
        held: set[bytes] = set()
        for customer in self.customers:
            row = self.watch.row(customer)
            if row is not None and not (whatever and row.status == Status.DISCONNECTED):
                held |= self.watch.held(row)
            held |= self.watch.on_the_way()
        held |= self._to_be_revoked()
        self.book.forgiven |= {token for token in tokens if self.fleet.fingerprint(token) not in held}

    def _to_be_revoked(self) -> set[bytes]:
        rows = self.fleet.db.execute("SELECT * FROM qbo.revocations WHERE refresh_token IS NOT NULL").all()
        keyring = self.stage.config.keyring()
        return {
            self.fleet.lookup.fingerprint(
                keyring.open(row.refresh_token, self.fleet.place(row.connection_id, grant_number=row.grant_number))
            )
            for row in rows
        }

    def _in_hand(self, token: str) -> bool:
        return any(token in flight.hand for flight in self.stage.flights.values())

    def _row(self, number: int) -> Any:
        return self.watch.row(self.customers[number])

    def _deploy(self, config: Config) -> None:
        self.stage.config = config
        self.fleet.keyring = config.keyring()
