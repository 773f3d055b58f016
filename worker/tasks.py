"""The tasks, public by name. Ids in, never tokens; safe to deliver twice; the row's schedule owns all retries."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from celery.exceptions import Reject
from celery.utils import uuid
from sqlalchemy.exc import DBAPIError

from qbo_refresh.status import Ending, Outcome
from worker import delivery, event_broker, heartbeat, log, queues, runtime
from worker.app import app
from worker.attempt import IF_DUE, Freshness, Trigger
from worker.database import DatabaseUnavailable, is_passing, sqlstate
from worker.dispatch import Sweep, dispatch_due
from worker.ending import Ended, disconnect, revoke_due
from worker.exchange import exchange
from worker.refresh import Result, refresh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbo_refresh.event_message import EventMessage
    from worker.settings import EventTarget

_EVENTS = UUID("5f3cb0a4-5f0e-4b52-9f5c-2a5a3d8e4c11")
_HINTED_AT_MOST_EVERY = timedelta(minutes=1)


@app.task(name=queues.REFRESH_DUE, ignore_result=True)
def refresh_due_task(connection_id: int) -> dict[str, Any]:
    """Refresh a connection if it is due. Sent by the sweep; stores no result: what it returns is for Flower alone."""
    return _refresh(connection_id, Trigger.SWEEP, IF_DUE).as_dict()


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
            pace=config.pace,
            mark=config.queue_mark,
            queue_length=_queue_length,
            publish=_publish,
        )
    )
    here.ender.store.end_expired()
    if here.ender.store.anything_left():
        settle_grants_task.apply_async(queue=queues.ADHOC)
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


@app.task(name=queues.EXCHANGE, ignore_result=True)
def exchange_task(authorization_id: int) -> None:
    """Exchange the code of a consent that was called back. The row tells what became of it."""
    with contextlib.suppress(DatabaseUnavailable):  # the sweep takes it up
        exchange(_here().exchanger, authorization_id)


@app.task(name=queues.DISCONNECT)
def disconnect_task(connection_id: int, external_id: str | None = None) -> dict[str, Any]:
    """End a connection: its tokens are forgotten and revoked, its syncs held.

    Args:
        connection_id: Our id of the connection.
        external_id: Only this one of its external ids leaves; the last one ends the connection.

    Returns:
        `connection_id`, `outcome` (`disconnected`, `left` or `skipped`), `reason`, `revoked` (by Intuit, so far).
    """
    try:
        return disconnect(_here().ender, connection_id, external_id=external_id).as_dict()
    except DatabaseUnavailable:
        log.warning("disconnect.database_unavailable", connection_id=connection_id)
        return Ended(connection_id, Ending.SKIPPED, "database_unavailable").as_dict()


@app.task(name=queues.DISCONNECT_HINT)
def disconnect_hint(connection_id: int) -> dict[str, Any]:
    """Look whether a grant still lives: Intuit's Disconnect URL was visited, by whom is not known.

    A refusal is a first one like any other. Returns what `refresh_connection` does.
    """
    return _refresh(connection_id, Trigger.HINT, Freshness(_HINTED_AT_MOST_EVERY)).as_dict()


@app.task(name=queues.SETTLE_GRANTS, ignore_result=True)
def settle_grants_task() -> None:
    """Take up consents and revocations that somebody has left unfinished. Sent by the sweep."""
    here = _here()
    for authorization_id in here.ender.store.unfinished():
        exchange(here.exchanger, authorization_id)
    revoke_due(here.ender)


def _here() -> runtime.Runtime:
    here = runtime.current()
    if here.stop.since is not None:
        raise Reject("stopping", requeue=True)  # another worker takes it; the caller goes on waiting
    return here


def _refresh(connection_id: int, trigger: Trigger, freshness: Freshness) -> Result:
    try:
        return refresh(_here().refresher, connection_id, trigger=trigger, freshness=freshness)
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
