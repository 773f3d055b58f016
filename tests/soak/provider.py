"""Intuit within the process: the simulator's own records behind the worker's port, without the HTTP between.

What it answers goes as bytes through the worker's classification. It enforces the 100 days and the five years.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from intuit_simulator import messages, policy
from intuit_simulator.book import Book, Refusal
from intuit_simulator.client import CreatedGrant
from worker import clock
from worker.errors import Unavailable
from worker.intuit.endpoint import classify
from worker.intuit.transport import RawAnswer

if TYPE_CHECKING:
    from intuit_simulator.grants import Grant
    from qbo_refresh.secret import Secret
    from worker.intuit import Gate
    from worker.tokens import TokenSet


class Weather(Enum):
    """What Intuit answers at a time."""

    FINE = "as usual"
    UNREACHABLE = "cannot be reached"
    ERROR = "503"
    THROTTLED = "429"
    REFUSING = "invalid_grant to everybody"


@dataclass(slots=True)
class Counts:
    """What a provider saw."""

    calls: int = 0
    refreshes: int = 0
    rotations: int = 0
    overlapping: int = 0
    superseded: int = 0


class Provider:
    """One provider; `now`, in seconds since 1970, and `weather` are set from outside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client_id = f"soak-{name}"
        self.book = Book(policy.make(name, access_token_length=64))
        self.now = 0.0
        self.weather = Weather.FINE
        self.counts = Counts()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind: a provider lives in its app's process, and is judged in the first."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what another process left, with a lock of its own."""
        vars(self).update(state, _lock=threading.Lock())

    def create_grants(self, count: int, *, client_id: str, granted_ago: float = 0) -> list[CreatedGrant]:
        """Create grants that were consented to so long ago and rotated just now, as `Simulator.create_grants` does."""
        grants = [
            self.book.create(self.book.free_realm(), client_id, self.now, granted_ago=granted_ago) for _ in range(count)
        ]
        return [CreatedGrant(grant.realm_id, grant.current.value, client_id) for grant in grants]

    def grant(self, realm_id: str) -> Grant:
        """Return the realm's grant."""
        found = self.book.newest(realm_id)
        assert found is not None
        return found

    def revoke(self, realm_id: str) -> None:
        """End a grant, as a disconnect within QuickBooks does."""
        self.grant(realm_id).ended = "revoked by the user"

    def answer(self, refresh_token: str) -> TokenSet:
        """Answer one call. Raises what `TokenEndpoint.refresh` raises."""
        if self.weather is Weather.UNREACHABLE:
            raise Unavailable("unreachable")
        with self._lock:
            self.counts.calls += 1
            token = self.book.find(refresh_token)
            if token is not None:
                self.counts.superseded += token.superseded_at is not None
                self.counts.overlapping += token.begin_call(self.now)
        try:
            return classify(self._raw(refresh_token))
        finally:
            if token is not None:
                with self._lock:
                    token.end_call(self.now)

    def _raw(self, refresh_token: str) -> RawAnswer:
        match self.weather:
            case Weather.ERROR:
                return _answer(503, b"<html>Service Unavailable</html>")
            case Weather.THROTTLED:
                return _answer(429, b"{}")
            case Weather.REFUSING:
                return _answer(400, b'{"error":"invalid_grant"}')
        with self._lock:
            outcome = self.book.refresh(self.book.find(refresh_token), self.client_id, self.now)
            if isinstance(outcome, Refusal):
                reply = messages.refusal(outcome)
                return _answer(reply.status, reply.body)
            self.counts.refreshes += 1
            self.counts.rotations += outcome.rotated
            return _answer(200, messages.encode(messages.success(outcome, tells_hard_expiry=True)))


def _answer(status: int, body: bytes) -> RawAnswer:
    return RawAnswer(status, {}, body, complete=True, last_byte_at=clock.boottime())


class Intuit:
    """Implements `worker.intuit.TokenEndpoint`."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def refresh(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> TokenSet:  # noqa: ARG002  # the port's
        """Present a refresh token once."""
        gate.check()
        return self._provider.answer(refresh_token.reveal())

    def exchange(
        self,
        code: Secret,  # noqa: ARG002  # the port's
        *,
        redirect_url: str,  # noqa: ARG002  # the port's
        client_id: str,  # noqa: ARG002  # the port's
        client_secret: Secret,  # noqa: ARG002  # the port's
        gate: Gate,  # noqa: ARG002  # the port's
    ) -> TokenSet:
        """Nobody consents in a soak."""
        raise AssertionError("a soak exchanges nothing")

    def revoke(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> bool:  # noqa: ARG002  # the port's
        """Nobody disconnects in a soak."""
        raise AssertionError("a soak revokes nothing")

    def is_of_company(self, access_token: Secret, realm_id: Secret, *, environment: str, gate: Gate) -> bool | None:  # noqa: ARG002  # the port's
        """Nobody connects in a soak."""
        raise AssertionError("a soak connects nobody")
