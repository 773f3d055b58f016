"""What the task of a host is given of an event."""

from __future__ import annotations

from typing import Any, TypedDict


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
