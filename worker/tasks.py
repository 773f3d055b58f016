"""The tasks, public by name. Ids in, never tokens; safe to deliver twice; the row's schedule owns all retries."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from celery.exceptions import Reject
from celery.utils import uuid
from sqlalchemy.exc import DBAPIError

from qbo_refresh.status import Outcome
from worker import delivery, event_broker, heartbeat, log, queues, runtime
from worker.app import app
from worker.attempt import IF_DUE, Freshness, Trigger
from worker.database import DatabaseUnavailable, is_passing, sqlstate
from worker.dispatch import Sweep, dispatch_due
from worker.refresh import Result, refresh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbo_refresh.event_message import EventMessage
    from worker.settings import EventTarget

_EVENTS = UUID("5f3cb0a4-5f0e-4b52-9f5c-2a5a3d8e4c11")


@app.task(name=queues.REFRESH_DUE, ignore_result=True)
def refresh_due_task(connection_id: int) -> None:
    """Refresh a connection if it is due. Sent by the sweep; keeps no result."""
    _refresh(connection_id, Trigger.SWEEP, IF_DUE)


@app.task(name=queues.REFRESH_CONNECTION)
def refresh_connection(connection_id: int, max_age: float = 60, min_ttl: float | None = None) -> dict[str, Any]:
    """Refresh a connection unless an attempt began within `max_age` seconds: a hundred clicks are one call.

    Args:
        connection_id: Our id of the connection.
        max_age: In seconds; 0 asks for a new attempt. The pauses that bind everybody bind this too.
        min_ttl: And only if the access token has no more than so many seconds left; None for however many.

    Returns:
        `connection_id`, `outcome`, `reason` (a word, or None) and `rotated` (None unless refreshed). Never a token.
    """
    freshness = Freshness(timedelta(seconds=max_age), None if min_ttl is None else timedelta(seconds=min_ttl))
    return _refresh(connection_id, Trigger.ADHOC, freshness).as_dict()


@app.task(name=queues.DISPATCH_DUE, ignore_result=True)
def dispatch_due_task() -> None:
    """Publish a message for each due connection. Sent by beat."""
    here = runtime.current()
    config = here.settings
    swept = dispatch_due(
        Sweep(
            db=here.db,
            keys=here.keys,
            per_sweep=config.refreshes_per_sweep,
            per_minute=config.refresh_per_minute,
            every=timedelta(seconds=config.sweep_seconds),
            lease=config.pace.lease,
            mark=config.queue_mark,
            queue_length=_queue_length,
            publish=_publish,
        )
    )
    if swept.skipped is None and config.heartbeat_url is not None:
        heartbeat.beat(config.heartbeat_url)


@app.task(name=queues.DELIVER_EVENTS, ignore_result=True)
def deliver_events() -> None:
    """Send the events that wait to the host's task, or leave them to those who poll. Sent by beat."""
    here = runtime.current()
    target = here.settings.event_target()
    try:
        if target is None:
            delivery.leave_to_pollers(here.db)
            return
        delivery.deliver(
            delivery.Delivery(
                db=here.db,
                task=target.task,
                reconnect_url=here.settings.reconnect_url,
                reach=lambda: event_broker.reach(target, _task_message),
                stopping=lambda: here.stop.since is not None,
            )
        )
    except DBAPIError as error:
        here.db.drop_connection()
        if not is_passing(error):
            raise
        log.warning("events.database_unavailable", sqlstate=sqlstate(error))


def _task_message(target: EventTarget, event: EventMessage) -> Any:
    """Return Celery's message that calls the host's task with an event, under the same task id each time it is sent."""
    return app.amqp.create_task_message(
        str(uuid5(_EVENTS, f"{event['id']} {event['created_at']}")),
        target.task,
        (event,),
        {},
        argsrepr=f"(event {event['id']}, {event['type']})",
        ignore_result=True,  # nobody of ours reads it
    )


def _refresh(connection_id: int, trigger: Trigger, freshness: Freshness) -> Result:
    if not isinstance(connection_id, int) or isinstance(connection_id, bool):
        raise TypeError("connection_id must be a number: our id of the connection")
    try:
        here = runtime.current()
        if here.stop.since is not None:
            raise Reject("stopping", requeue=True)  # another worker takes it; the caller goes on waiting
        return refresh(here.refresher, connection_id, trigger=trigger, freshness=freshness)
    except DatabaseUnavailable:
        log.warning("refresh.database_unavailable", connection_id=connection_id)
        return Result(connection_id, Outcome.DEFERRED, "database_unavailable")


def _queue_length() -> int:
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        return int(channel.queue_declare(queue=queues.SWEEP).message_count)


def _publish(connection_ids: Sequence[int]) -> None:
    """Send a message for each, as `apply_async` would: routing and declaring once, not each time, doubles the rate."""
    queue = app.amqp.queues[queues.SWEEP]
    producer: Any
    with app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=len(connection_ids)):
        producer.maybe_declare(queue)
        for connection_id in connection_ids:
            message = app.amqp.create_task_message(
                uuid(), queues.REFRESH_DUE, (connection_id,), {}, argsrepr=f"({connection_id},)", ignore_result=True
            )
            app.amqp.send_task_message(producer, queues.REFRESH_DUE, message, queue=queue, declare=[])
