"""What a host is given of an event, whether its task is called or it polls. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote

from qbo_refresh.status import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXTERNAL_ID = "{external_id}"
"""Stands in RECONNECT_URL for a host's own id of a connection."""


class EventMessage(TypedDict):
    """One event. The same event has the same `id` however often it comes.

    Attributes:
        id: Grows over all events.
        connection_id: Ours; None for an operators' event that is about no connection.
        external_ids: The host's own ids of the connection.
        sequence: 1, 2, 3 … for each connection; None with `connection_id`.
        created_at: ISO 8601 in UTC.
        payload: What this type of event says besides: a `reason`, `reconnect_urls`, numbers.
    """

    id: int
    type: str
    connection_id: int | None
    external_ids: list[str]
    label: str | None
    sequence: int | None
    created_at: str
    payload: dict[str, Any]


def make(
    *,
    event_id: int,
    event_type: str,
    connection_id: int | None,
    external_ids: Sequence[str],
    label: str | None,
    sequence: int | None,
    created_at: datetime,
    payload: Mapping[str, Any],
    reconnect_url: str | None,
) -> EventMessage:
    """Return the message of an event.

    Args:
        event_id: Its number in the outbox.
        event_type: One of `status.Event`.
        connection_id: Ours.
        external_ids: The host's, now.
        label: The connection's, now.
        sequence: Its number among the connection's events.
        created_at: When it was written.
        payload: As it was written.
        reconnect_url: RECONNECT_URL; with it `connection.needs_reauth` gets a link for each external id.
    """
    details = dict(payload)
    if event_type == Event.NEEDS_REAUTH:
        details["reconnect_urls"] = {each: link(reconnect_url, each) for each in external_ids} if reconnect_url else {}
    return EventMessage(
        id=event_id,
        type=event_type,
        connection_id=connection_id,
        external_ids=list(external_ids),
        label=label,
        sequence=sequence,
        created_at=in_utc(created_at),
        payload=details,
    )


def link(template: str, external_id: str) -> str:
    """Return the host's page on which this connection is reconnected."""
    return template.replace(EXTERNAL_ID, quote(external_id, safe=""))


def in_utc(moment: datetime) -> str:
    """Return an aware moment in ISO 8601, in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
