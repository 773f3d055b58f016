"""Delivers events to the host's task: at least once into its broker, in order for each connection, never in a hurry.

A run is bounded, holds no transaction while it speaks to the broker, and pauses for everybody when that is away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

from qbo_refresh.event_message import EventMessage
from qbo_refresh.status import Event
from worker import clock, log
from worker.event_broker import BrokerTrouble
from worker.moments import to_the_millisecond
from worker.settings import EXTERNAL_ID
from worker.store import outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from worker.database import Database
    from worker.store.outbox import Stored

RUN_FOR = timedelta(seconds=20)
# The run, one answer that is slow, and room: a deliverer that is frozen in between sends one event twice, no more.
LEASE = timedelta(seconds=60)
LONGEST_PAUSE = timedelta(minutes=1)
BATCH = 100
# A worker without EVENT_TASK leaves time to those that have it.
LEFT_AFTER = timedelta(hours=1)
LEFT_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a delivery works with.

    Attributes:
        task: The host's task.
        reconnect_url: RECONNECT_URL, for the links in `connection.needs_reauth`.
        reach: Opens the host's broker and gives the function that puts one event into it. Both raise BrokerTrouble.
        stopping: This process is to end: no further event.
    """

    db: Database
    task: str
    reconnect_url: str | None
    reach: Callable[[], AbstractContextManager[Callable[[EventMessage], None]]]
    stopping: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a run came to; `trouble` is why it ended early, in a word."""

    sent: int
    trouble: str | None = None


def pause(failures: int) -> timedelta:
    """Return how long the host's broker is left alone after so many failures in a row: 2 s, doubling to a minute."""
    return min(timedelta(seconds=2 ** min(failures, 10)), LONGEST_PAUSE)


def deliver(work: Delivery) -> Delivered:
    """Send what waits, for 20 s at most; nothing if another delivers, or while the broker is left alone."""
    lease_id, began = uuid4(), clock.boottime()
    failures = outbox.begin_delivery(work.db, lease_id=lease_id, lasts=LEASE, longest_pause=LONGEST_PAUSE)
    if failures is None:
        return Delivered(0)
    result = _send_waiting(work, until=began + RUN_FOR.total_seconds())
    failures = 0 if result.trouble is None else failures + 1
    outbox.end_delivery(
        work.db, lease_id=lease_id, failures=failures, pause=pause(failures) if result.trouble else None
    )
    if result.sent:
        log.info("events.delivered", events=result.sent)
    if result.trouble is not None:
        log.warning("events.waiting", reason=result.trouble, failures=failures)
    return result


def _send_waiting(work: Delivery, *, until: float) -> Delivered:
    total = 0
    try:
        with work.reach() as send:
            while not _is_over(work, until) and (batch := outbox.waiting(work.db, limit=BATCH)):
                result = _send(work, batch, send, until=until)
                total += result.sent
                if result.trouble is not None:
                    return Delivered(total, result.trouble)
    except BrokerTrouble as error:
        return Delivered(total, error.reason)
    return Delivered(total)


def _send(work: Delivery, batch: Sequence[Stored], send: Callable[[EventMessage], None], *, until: float) -> Delivered:
    """Send a batch in order, up to the first that the broker does not take; what it took is marked in any case."""
    sent: list[int] = []
    try:
        for event in batch:
            if _is_over(work, until):
                break
            send(as_message(event, work.reconnect_url))
            sent.append(event.id)
    except BrokerTrouble as error:
        return Delivered(len(sent), error.reason)
    finally:
        if sent:
            outbox.mark_delivered(work.db, sent, task=work.task)
    return Delivered(len(sent))


def _is_over(work: Delivery, until: float) -> bool:
    return work.stopping() or clock.boottime() > until


def as_message(event: Stored, reconnect_url: str | None) -> EventMessage:
    """Return what the host is given of an event; with RECONNECT_URL a verdict has a link for each external id."""
    payload = dict(event.payload)
    if event.type == Event.NEEDS_REAUTH:
        names = event.external_ids if reconnect_url else ()
        payload["reconnect_urls"] = {name: _link(str(reconnect_url), name) for name in names}
    return EventMessage(
        id=event.id,
        type=event.type,
        connection_id=event.connection_id,
        external_ids=list(event.external_ids),
        label=event.label,
        sequence=event.sequence,
        created_at=to_the_millisecond(event.created_at),
        payload=payload,
    )


def _link(template: str, external_id: str) -> str:
    return template.replace(EXTERNAL_ID, quote(external_id, safe=""))


def leave_to_pollers(db: Database) -> int:
    """Mark what nobody delivers: EVENT_TASK is not set, and no worker of this database ever had one."""
    return outbox.leave_to_pollers(db, after=LEFT_AFTER, limit=LEFT_AT_ONCE)
