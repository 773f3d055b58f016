"""The calls of a host that end a connection, or have it looked at. The worker does both; a message holds an id."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qbo_refresh import other_side, watching
from qbo_refresh.database import DatabaseAway
from qbo_refresh.errors import QboRefreshError, TemporarilyUnavailable, UnknownConnection
from qbo_refresh.standing import ONCE_IN
from qbo_refresh.status import Status
from qbo_refresh.watching import RETRY_AFTER_S, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from qbo_refresh.other_side import OtherSide


def disconnect(connection: int | str, *, external_id: str | None = None, timeout: timedelta | float = TIMEOUT) -> None:
    """End a connection, and wait until its tokens are forgotten and its syncs held. Intuit is told after that.

    One that has ended already is none the worse for it.

    Args:
        connection: Our id, `external:…` or `realm:…`.
        external_id: Only this one of its external ids leaves, and the others go on; the last one ends the connection.
        timeout: How long to wait at most; a timedelta, or seconds.

    Raises:
        TemporarilyUnavailable: `no_answer`: the worker has not done it in time, and does it once it can;
            `broker_unavailable` or `database_unavailable`: nobody may have been told.
        UnknownConnection: No connection has this name, or not this external id.
        ConfigurationError: This process is not set up.
    """
    end = time.monotonic() + watching.seconds(timeout)
    try:
        side = other_side.here()
        connection_id = side.read(connection).connection_id
        name = connection_id if external_id is None else f"external:{external_id}"
        if side.read(name).connection_id != connection_id:
            raise UnknownConnection(f"Connection {connection_id} has no external id {external_id!r}.")
        # Sent to one that has ended, too: a consent over it may be on its way, and ends with it.
        _send(lambda: side.disconnect(connection_id, external_id), connection_id)
        if not any(_is_over(side, name, connection_id) for _ in watching.looks(end)):
            raise TemporarilyUnavailable("no_answer", RETRY_AFTER_S, connection_id)
    except DatabaseAway:
        raise TemporarilyUnavailable("database_unavailable", RETRY_AFTER_S) from None


def disconnect_hint(connection: int | str) -> None:
    """Have the worker look whether a connection's grant still lives: Intuit's Disconnect URL was visited.

    Nothing is waited for. Within a minute of the connection's last attempt nothing is asked either.

    Args:
        connection: As `disconnect`.

    Raises:
        TemporarilyUnavailable, UnknownConnection, ConfigurationError: As `disconnect`.
    """
    try:
        side = other_side.here()
        standing = side.read(connection)
    except DatabaseAway:
        raise TemporarilyUnavailable("database_unavailable", RETRY_AFTER_S) from None
    # Anybody can visit that page, as often as they like.
    if standing.since_attempt is None or standing.since_attempt >= ONCE_IN:
        _send(lambda: side.disconnect_hint(standing.connection_id), standing.connection_id)


def _send(send: Callable[[], None], connection_id: int) -> None:
    try:
        send()
    except QboRefreshError:
        raise
    except Exception:  # noqa: BLE001  # each transport has its own, and none is more than "not sent"
        raise TemporarilyUnavailable("broker_unavailable", RETRY_AFTER_S, connection_id) from None


def _is_over(side: OtherSide, name: int | str, connection_id: int) -> bool:
    """Tell whether what was to end has ended: it is disconnected, or no longer called so."""
    try:
        standing = side.read(name)
    except UnknownConnection:
        return True
    return standing.connection_id != connection_id or standing.status is Status.DISCONNECTED
