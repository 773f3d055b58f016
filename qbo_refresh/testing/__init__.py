"""For a host's own tests: connections in memory in place of the worker's, under the real calls and the real SyncTask.

    with qbo_refresh.testing.fake() as connections:
        connections.connect(7, external_ids=["acme-1"])
        sync_invoices(7)
        connections.pause(7, "reauth")

With pytest the same is a fixture: see `qbo_refresh.testing.plugin`. Limit: no process but this one sees them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from qbo_refresh import connection_names, other_side
from qbo_refresh.connection_names import Kind
from qbo_refresh.errors import UnknownConnection
from qbo_refresh.outbox import OutboxEvent
from qbo_refresh.sealing import Field, Keyring, Place, realm_place
from qbo_refresh.secret import Secret
from qbo_refresh.standing import Standing
from qbo_refresh.status import Hold, Status
from qbo_refresh.testing.consents import FakeConsents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from qbo_refresh.errors import QboRefreshError

_ENVIRONMENT = "sandbox"
_LIFETIME = timedelta(hours=1)
_RENEWED = timedelta(minutes=2)  # ago, so that a test may reject a token at once


class FakeConnections:
    """Stands in the worker's place: a refresh that is asked for happens at once, unless it was told to fail.

    Attributes:
        asked: The connections for which a refresh was asked, in order.
        missed: Connection → how many of its runs a SyncTask has skipped.
        hinted: The connections for which `disconnect_hint` asked, in order.
        consents: What `authorize_url` and `complete` work on.
    """

    def __init__(self) -> None:
        self.keyring = Keyring({"fake": {"client": os.urandom(32)}})
        self.asked: list[int] = []
        self.missed: dict[int, int] = {}
        self.hinted: list[int] = []
        self.consents = FakeConsents(self)
        self._standings: dict[int, Standing] = {}
        self._names: dict[str, int] = {}
        self._failing: dict[int, str] = {}
        self._events: list[OutboxEvent] = []
        self._lock = threading.RLock()

    def connect(
        self, connection_id: int, *, realm_id: str = "9130350000000001", external_ids: Iterable[str] = ()
    ) -> None:
        """Make an active connection with a fresh token; one that is there already is reconnected."""
        with self._lock:
            self._names[f"realm:{realm_id}"] = connection_id
            self._names |= {f"external:{name}": connection_id for name in external_ids}
            before = self._standings.get(connection_id)
            self._standings[connection_id] = self._renewed(
                Standing(
                    connection_id=connection_id,
                    environment=_ENVIRONMENT,
                    status=Status.ACTIVE,
                    grant_number=1 if before is None else before.grant_number + 1,
                    version=0 if before is None else before.version,
                    realm_id=self.keyring.seal(Secret(realm_id), realm_place(_ENVIRONMENT, connection_id)),
                )
            )

    def pause(self, connection_id: int, reason: str = Hold.REAUTH) -> None:
        """Pause its syncs for one more reason; `reauth` and `disconnected` are its status, too."""
        statuses = {Hold.REAUTH: Status.NEEDS_REAUTH, Hold.DISCONNECTED: Status.DISCONNECTED}
        with self._lock:
            before = self.read(connection_id)
            status = statuses.get(Hold(reason), before.status)
            self._standings[connection_id] = replace(
                before, status=status, holds=tuple(sorted({*before.holds, str(reason)}))
            )

    def resume(self, connection_id: int) -> None:
        """Lift every reason: the connection is active again."""
        with self._lock:
            self._standings[connection_id] = replace(self.read(connection_id), status=Status.ACTIVE, holds=())

    def expire(self, connection_id: int) -> None:
        """Let its access token expire: who wants one has to ask for a refresh."""
        with self._lock:
            self._standings[connection_id] = replace(self.read(connection_id), left=timedelta(seconds=-1))

    def fail(self, connection_id: int, reason: str | None = "unreachable") -> None:
        """Let refreshes that are asked for fail for a reason from now on; None for no longer."""
        with self._lock:
            self._failing.pop(connection_id, None)
            if reason is not None:
                self._failing[connection_id] = reason
            self._standings[connection_id] = replace(self.read(connection_id), pause=None)

    def fail_consents(self, error: QboRefreshError | None) -> None:
        """Let consents that are completed end in this error from now on; None for no longer.

        A `ConsentFailed` or `WrongRealm` stays what that state has come to; a `TemporarilyUnavailable` does not.
        """
        self.consents.error = error

    def emit(self, event: str, connection_id: int | None = None, **payload: Any) -> None:
        """Let something happen, for `qbo_refresh.events`."""
        with self._lock:
            number = len(self._events) + 1
            self._events.append(OutboxEvent(number, event, connection_id, number, payload, _now()))

    def read(self, connection: int | str) -> Standing:
        """Return how a connection stands; for the calls."""
        with self._lock:
            kind, name = connection_names.understood(connection)
            known = int(name) if kind is Kind.ID else self._names.get(f"{kind}:{name}", 0)
            standing = self._standings.get(known)
        if standing is None:
            raise UnknownConnection(f"No connection of this test is called {connection!r}.")
        return standing

    def asker(self) -> Callable[[int, float | None], None]:
        """Return what asks for a refresh; for the calls."""
        return self._ask

    def disconnect(self, connection_id: int, external_id: str | None) -> None:
        """End a connection, or one of several external ids of it; for the call of that name."""
        with self._lock:
            if external_id is not None and len(self._external_ids(connection_id)) > 1:
                del self._names[f"external:{external_id}"]
            else:
                self._standings[connection_id] = replace(self.read(connection_id), holds=())
                self.pause(connection_id, Hold.DISCONNECTED)

    def disconnect_hint(self, connection_id: int) -> None:
        """Note that it was asked for; for the call of that name."""
        with self._lock:
            self.hinted.append(connection_id)

    def count_missed(self, connection_id: int) -> None:
        """Note that a run was skipped; for SyncTask."""
        with self._lock:
            self.missed[connection_id] = self.missed.get(connection_id, 0) + 1

    def events(self, after: int, limit: int) -> Sequence[OutboxEvent]:
        """Return what happened; for the call of that name."""
        with self._lock:
            return [event for event in self._events if event.id > after][:limit]

    def free_id(self) -> int:
        """Return an id that no connection has; for consents."""
        with self._lock:
            return max(self._standings, default=0) + 1

    def realm_id(self, connection_id: int) -> Secret:
        """Return a connection's company; for consents."""
        return self.keyring.open(self.read(connection_id).realm_id, realm_place(_ENVIRONMENT, connection_id))

    def called(self, connection_id: int) -> str:
        """Return what a person would call a connection; for consents."""
        with self._lock:
            return min(self._external_ids(connection_id), default=f"connection {connection_id}")

    def _external_ids(self, connection_id: int) -> list[str]:
        return [
            name.removeprefix("external:")
            for name, its in self._names.items()
            if its == connection_id and name.startswith("external:")
        ]

    def _ask(self, connection_id: int, _min_ttl_s: float | None) -> None:
        with self._lock:
            self.asked.append(connection_id)
            before = self.read(connection_id)
            reason = self._failing.get(connection_id)
            self._standings[connection_id] = (
                self._renewed(before)
                if reason is None
                else replace(before, pause=timedelta(minutes=1), pause_reason=reason)
            )

    def _renewed(self, before: Standing) -> Standing:
        version = before.version + 1
        place = Place(_ENVIRONMENT, before.connection_id, before.grant_number, Field.ACCESS_TOKEN)
        token = Secret(f"fake-access-token-{before.connection_id}-{version}")
        return replace(
            before,
            version=version,
            access_token=self.keyring.seal(token, place),
            expires_at=_now() + _LIFETIME,
            left=_LIFETIME,
            since_refresh=_RENEWED,
            since_attempt=_RENEWED,
            attempt_began_at=_now(),
        )


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251  # a fake's token has to expire at some time


@contextlib.contextmanager
def fake() -> Iterator[FakeConnections]:
    """Put connections in memory in the worker's place for the block, and give them; there are none at first."""
    connections = FakeConnections()
    other_side.put_in_place(connections)
    try:
        yield connections
    finally:
        other_side.put_in_place(None)


__all__ = ["FakeConnections", "fake"]
