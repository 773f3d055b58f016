"""What the calls of a host need of the worker's side: the rows to read, and the messages to send.

`here()` returns the real one, on PostgreSQL and the broker, or the fake that a host's tests have put in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from qbo_refresh import configuration, connection_names, names, outbox
from qbo_refresh.connection_names import Kind
from qbo_refresh.database import database
from qbo_refresh.errors import ConfigurationError, UnknownConnection
from qbo_refresh.secret import Secret
from qbo_refresh.standing import Standing
from qbo_refresh.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbo_refresh.outbox import OutboxEvent
    from qbo_refresh.sealing import Keyring

_READ = """
SELECT c.id AS connection_id, a.environment, c.status, c.grant_number, c.token_version AS version, c.realm_id,
       c.access_token, c.access_expires_at AS expires_at,
       c.access_expires_at - now() AS left, now() - c.token_obtained_at AS since_refresh,
       GREATEST(c.not_before, a.throttled_until) - now() AS pause,
       CASE WHEN a.throttled_until > COALESCE(c.not_before, '-infinity') THEN 'throttled'
            WHEN c.status = 'suspect' THEN 'suspect' ELSE COALESCE(c.last_reason, 'paused') END AS pause_reason,
       c.frozen OR COALESCE(g.frozen, false) AS frozen,
       CASE WHEN c.leased_until > now() THEN c.lease_id END AS lease_id,
       now() - c.attempt_began_at AS since_attempt, c.attempt_began_at,
       ARRAY(SELECT h.reason FROM qbo.sync_holds h WHERE h.connection_id = c.id ORDER BY 1) AS holds
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id LEFT JOIN qbo.control g ON true
WHERE {name} LIMIT 2
"""
_BY_ID = _READ.format(name="c.id = %(name)s")
_BY_EXTERNAL_ID = _READ.format(
    name="c.id = (SELECT x.connection_id FROM qbo.external_ids x WHERE x.external_id = %(name)s)"
)
_BY_REALM = _READ.format(name="c.realm_hash = %(name)s")

_COUNT_MISSED = """
INSERT INTO qbo.missed_runs AS m (connection_id, runs)
SELECT c.id, 1 FROM qbo.connections c WHERE c.id = %(id)s
ON CONFLICT (connection_id) DO UPDATE SET runs = m.runs + 1
"""


class OtherSide(Protocol):
    """What the calls need of the worker's side."""

    @property
    def keyring(self) -> Keyring:
        """The keys of access tokens and realm ids."""

    def read(self, connection: int | str) -> Standing:
        """Return how a connection stands; raises UnknownConnection, DatabaseAway."""

    def asker(self) -> Callable[[int, float | None], None]:
        """Return what asks for a refresh (connection id, min_ttl in seconds); it may be called in another thread."""

    def disconnect(self, connection_id: int, external_id: str | None) -> None:
        """Ask for the end of a connection, or of one external id; raises whatever a broker does that is away."""

    def disconnect_hint(self, connection_id: int) -> None:
        """Ask whether its grant still lives; raises as `disconnect`."""

    def count_missed(self, connection_id: int) -> None:
        """Note that a run of the connection's syncs was skipped."""

    def events(self, after: int, limit: int) -> Sequence[OutboxEvent]:
        """Return what happened after an event, oldest first."""


class Consents(Protocol):
    """What a fake has in the place of Intuit's page and the worker's exchange."""

    def link(self, connection: int | str, session: Secret, *, label: str | None) -> str:
        """Return the address of a consent; raises UnknownConnection."""

    def complete(self, code: Secret, state: str, realm_id: Secret, session: Secret) -> int:
        """Return the id of the connection that got the grant; raises as `authorizing.complete`."""


class _Fake(OtherSide, Protocol):
    @property
    def consents(self) -> Consents:
        """What `authorize_url` and `complete` work on."""


class _Real:
    """PostgreSQL and the broker."""

    @property
    def keyring(self) -> Keyring:
        return configuration.current().keyring

    def read(self, connection: int | str) -> Standing:
        statement, value, shown = _name(connection)
        rows = database().rows(statement, {"name": value})
        if not rows:
            raise UnknownConnection(f"No connection has {shown}.")
        if len(rows) > 1:
            ids = ", ".join(str(row.connection_id) for row in rows)
            raise UnknownConnection(f"Several connections have {shown} (among them {ids}): use the number of one.")
        found = rows[0]._asdict()
        return Standing(**found | {"status": Status(found["status"]), "holds": tuple(found["holds"])})

    def asker(self) -> Callable[[int, float | None], None]:
        from qbo_refresh import broker  # noqa: PLC0415  # Celery is imported by who needs it

        return broker.asker()

    def disconnect(self, connection_id: int, external_id: str | None) -> None:
        from qbo_refresh import broker  # noqa: PLC0415  # as above

        broker.send(broker.app(), names.DISCONNECT, connection_id, external_id=external_id)

    def disconnect_hint(self, connection_id: int) -> None:
        from qbo_refresh import broker  # noqa: PLC0415  # as above

        broker.send(broker.app(), names.DISCONNECT_HINT, connection_id)

    def count_missed(self, connection_id: int) -> None:
        database().rows(_COUNT_MISSED, {"id": connection_id})

    def events(self, after: int, limit: int) -> Sequence[OutboxEvent]:
        return outbox.read(after, limit)


def _name(connection: int | str) -> tuple[str, Any, str]:
    """Return statement, value and words for a connection's name."""
    kind, value = connection_names.understood(connection)
    match kind:
        case Kind.ID:
            return _BY_ID, value, f"the id {value}"
        case Kind.EXTERNAL:
            return _BY_EXTERNAL_ID, value, f"the external id {value!r}"
        case Kind.REALM:
            return _BY_REALM, _realm_hash(str(value)), "this realm id"


def _realm_hash(realm_id: str) -> bytes:
    lookup = configuration.current().lookup
    if lookup is None:
        raise ConfigurationError("LOOKUP_KEY is not set: without it no connection is found by its realm id.")
    return lookup.realm_hash(Secret(realm_id))


_REAL = _Real()
_fake: _Fake | None = None


def here() -> OtherSide:
    """Return the worker's side as this process reaches it."""
    return _fake or _REAL


def fake_consents() -> Consents | None:
    """Return what a fake has for consents; None on the real side, whose consents are `authorizing`'s."""
    return None if _fake is None else _fake.consents


def put_in_place(fake: Any) -> None:
    """Have every call of this process work on a fake (`qbo_refresh.testing`); None for the real side again."""
    global _fake  # noqa: PLW0603  # one for the process, by design
    _fake = fake
