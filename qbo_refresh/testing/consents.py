"""Consents in a host's tests: links whose states only this process knows, and what comes of bringing one back."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh import authorizing, configuration, connection_names, consent_state
from qbo_refresh.connection_names import Kind
from qbo_refresh.errors import InvalidState, QboRefreshError, TemporarilyUnavailable, UnknownConnection, WrongRealm

if TYPE_CHECKING:
    from qbo_refresh.secret import Secret
    from qbo_refresh.testing import FakeConnections

_CLIENT_ID = "fake-client-id"
_REDIRECT_URL = "https://host.invalid/quickbooks/callback"


@dataclass(slots=True)
class _Consent:
    """What a link was made for.

    Attributes:
        connection_id: Whose it is; None for a connection that is not here yet.
        session: A hash of the session's nonce.
        brought: A hash of the code and the company that came with the state; None before that.
        outcome: What the consent came to; None before that.
    """

    connection_id: int | None
    external_id: str | None
    label: str | None
    session: bytes
    brought: bytes | None = None
    outcome: int | QboRefreshError | None = None


class FakeConsents:
    """Stands in Intuit's and the worker's place: a code is good, unless consents were told to fail."""

    def __init__(self, connections: FakeConnections) -> None:
        self.error: QboRefreshError | None = None
        self._connections = connections
        self._consents: dict[str, _Consent] = {}
        self._lock = threading.RLock()

    def link(self, connection: int | str, session: Secret, *, label: str | None) -> str:
        """Return the address of a consent; for `authorize_url`."""
        kind, name = connection_names.for_consent(connection)
        connection_id = self._id(connection)
        external_id = str(name) if kind is Kind.EXTERNAL else None
        if connection_id is None:
            external_id = connection_names.new(kind, name)
        state = f"fake.{secrets.token_urlsafe(24)}"
        with self._lock:
            self._consents[state] = _Consent(connection_id, external_id, label, consent_state.digest(session))
        return authorizing.link(
            configuration.AUTHORIZE_URL, client_id=_CLIENT_ID, redirect_url=_REDIRECT_URL, state=state
        )

    def complete(self, code: Secret, state: str, realm_id: Secret, session: Secret) -> int:
        """Return the id of the connection that got the grant; for `complete`."""
        with self._lock:
            consent = self._consents.get(state) if isinstance(state, str) else None
            if consent is None:
                raise InvalidState("unknown")
            if consent.session != consent_state.digest(session):
                raise InvalidState("session")
            brought = consent_state.digest(code, realm_id)
            if consent.brought not in (None, brought):
                raise InvalidState("used")
            consent.brought = brought
            if consent.outcome is None:
                consent.outcome = self._exchanged(consent, realm_id)
        if isinstance(consent.outcome, QboRefreshError):
            raise consent.outcome
        return consent.outcome

    def _exchanged(self, consent: _Consent, realm_id: Secret) -> int | QboRefreshError:
        if isinstance(self.error, TemporarilyUnavailable):
            raise self.error  # the worker goes on, and so may the caller: nothing has come of it yet
        if self.error is not None:
            return self.error
        expected = consent.connection_id
        if expected is None:  # another consent for the same name may have been completed meanwhile
            expected = self._id(f"external:{consent.external_id}")
        here = self._id(f"realm:{realm_id.reveal()}")
        if expected is not None and self._connections.realm_id(expected) != realm_id:
            shown = consent.label or consent.external_id or self._connections.called(expected)
            return WrongRealm(shown, None if here is None else self._connections.called(here))
        made = expected or here or self._connections.free_id()
        names = [] if consent.external_id is None else [consent.external_id]
        self._connections.connect(made, realm_id=realm_id.reveal(), external_ids=names)
        return made

    def _id(self, connection: int | str) -> int | None:
        try:
            return self._connections.read(connection).connection_id
        except UnknownConnection:
            return None
