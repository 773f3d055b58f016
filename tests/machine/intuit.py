"""What Intuit and our processes have told each other: which tokens reached us, in which order they were issued."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.errors import GrantRejected, IntuitError, OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from intuit_simulator import GrantState, Simulator
    from qbo_refresh.secret import Secret
    from tests.machine.flights import Flight
    from worker.intuit import TokenEndpoint
    from worker.tokens import TokenSet

LASTS = timedelta(seconds=60)


@dataclass
class Book:
    """What was said.

    Attributes:
        passed: The machine's time.
        received: Tokens that reached a process of ours.
        forgiven: Those of them that may be lost: a second fault, or a death before any copy was acknowledged.
        order: Realm → its tokens as they were issued, over all its grants.
        lies: Realm → how often Intuit refused the current token of a living grant.
        presenting: Token → until when a call with it may be under way.
        wrongs: What must not happen, and did.
    """

    simulator: Simulator
    passed: timedelta = timedelta(0)
    received: set[str] = field(default_factory=set)
    forgiven: set[str] = field(default_factory=set)
    order: dict[str, list[str]] = field(default_factory=dict)
    grants: dict[str, float] = field(default_factory=dict)
    lies: Counter[str] = field(default_factory=Counter)
    presenting: dict[str, timedelta] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)

    def look(self) -> dict[str, GrantState]:
        """Return realm → its newest grant, and note what has been issued."""
        states = {state.realm_id: state for state in self.simulator.states()}
        for realm_id, state in states.items():
            known = self.order.setdefault(realm_id, [])
            for token in (*state.superseded, state.refresh_token):
                if token not in self.grants:
                    known.append(token)
                    self.grants[token] = state.granted_at
        return states

    def reached(self, token: str) -> bool:
        """Tell whether we must still have a token."""
        return token in self.received and token not in self.forgiven


class Watched:
    """The way to Intuit of one flight. It stands still before or after a call, if that is the flight's stop."""

    def __init__(self, port: TokenEndpoint, book: Book, flight: Flight, stop: tuple[str, str] | None) -> None:
        self._port, self._book, self._flight, self._stop = port, book, flight, stop
        self.is_of_company = port.is_of_company

    def refresh(self, refresh_token: Secret, **rest: Any) -> TokenSet:
        """Present a refresh token."""
        value = refresh_token.reveal()
        try:
            return self._ask("refresh", value, lambda: self._port.refresh(refresh_token, **rest))
        except GrantRejected:
            for realm_id, state in self._book.look().items():
                self._book.lies[realm_id] += state.alive and state.refresh_token == value
            raise

    def exchange(self, code: Secret, **rest: Any) -> TokenSet:
        """Present a code."""
        return self._ask("exchange", code.reveal(), lambda: self._port.exchange(code, **rest))

    def revoke(self, refresh_token: Secret, **rest: Any) -> bool:
        """Revoke a token: the simulator ends the grant at once, so that nothing is under way afterwards."""
        self._begin(refresh_token.reveal())
        self._stand("revoke", "before")
        done = self._port.revoke(refresh_token, **rest)
        self._book.presenting.pop(refresh_token.reveal(), None)
        self._stand("revoke", "after")
        return done

    def _ask(self, method: str, value: str, call: Callable[[], TokenSet]) -> TokenSet:
        book, flight = self._book, self._flight
        self._begin(value)
        self._stand(method, "before")
        flight.has_sent = True
        try:
            answer = call()
        except OutcomeUnknown as error:  # Intuit may be at it until the lease is over
            if error.salvaged is not None:
                self._take(error.salvaged)
            raise
        except IntuitError:
            book.presenting.pop(value, None)
            raise
        finally:
            book.look()
        self._take(answer.refresh_token)
        self._stand(method, "after")
        book.presenting.pop(value, None)
        return answer

    def _begin(self, value: str) -> None:
        book = self._book
        if value in book.presenting and book.passed < book.presenting[value]:
            book.wrongs.append(f"two calls at once with one token, the later by a {self._flight.what}")
        book.presenting[value] = self._flight.began + LASTS

    def _take(self, token: Secret) -> None:
        self._flight.hand.add(token.reveal())
        self._book.received.add(token.reveal())

    def _stand(self, method: str, when: str) -> None:
        if self._stop == (method, when):
            self._flight.stand()
