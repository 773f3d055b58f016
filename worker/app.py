"""The Celery app: `celery -A worker.app worker|beat|flower`. Configuration only; tasks are in `worker.tasks`."""

from __future__ import annotations

import copy
import os
import sys

from celery import Celery
from kombu import Exchange, Queue

from beat_schedule import BEAT_SCHEDULE
from qbo_refresh.errors import QboRefreshError
from worker import broker, lifecycle, messages, queues, settings
from worker.grouped_events import GroupedEvents

# For a broker that is asked; it has a second of its own for each empty answer (`brpop_timeout`).
ANSWER_WITHIN_S = 5.0


def _schedule(sweep_seconds: float) -> dict[str, dict[str, object]]:
    schedule: dict[str, dict[str, object]] = copy.deepcopy(BEAT_SCHEDULE)
    schedule["dispatch-due"]["schedule"] = sweep_seconds
    schedule["deliver-events"]["schedule"] = min(10.0, sweep_seconds)
    return schedule


def make(config: settings.Settings) -> Celery:
    """Return the app for these settings.

    Raises:
        SettingsError: REDIS_URL is missing or malformed.
    """
    broker.use()
    app = Celery(
        "qbo_refresh",
        broker=config.redis(),
        backend=config.redis(),
        include=["worker.tasks"],
        task_cls="worker.arguments:CheckedTask",
    )
    app.conf.update(
        # Ids only, and JSON only: a pickled message is refused before it is looked at.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # The row decides and the message is a hint: redelivery costs one statement, or one more refresh if the caller's
        # max_age is over by then, as after the visibility timeout it is.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=2,
        task_queues=[Queue(name, Exchange(name, type="direct"), routing_key=name) for name in queues.ALL],
        task_default_queue=queues.ADHOC,
        task_routes={queues.REFRESH_DUE: {"queue": queues.SWEEP}},
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": messages.VISIBLE_AFTER.total_seconds(),
            # On a Redis that others use, their shorter visibility timeout must not re-deliver our tasks.
            "unacked_key": "qbo.unacked",
            "unacked_index_key": "qbo.unacked_index",
            "unacked_mutex_key": "qbo.unacked_mutex",
            # A line that is dead without a word must not hold up a beat, or a worker's acknowledgements, for good.
            "socket_timeout": ANSWER_WITHIN_S,
            "socket_connect_timeout": ANSWER_WITHIN_S,
        },
        redis_socket_timeout=ANSWER_WITHIN_S,
        redis_socket_connect_timeout=ANSWER_WITHIN_S,
        result_expires=3600,
        task_send_sent_event=False,
        beat_schedule=_schedule(config.sweep_seconds),
        # In memory: a beat that starts late or twice is harmless, and no file is needed.
        beat_scheduler="celery.beat:Scheduler",
        beat_max_loop_interval=min(10.0, config.sweep_seconds),
        timezone="UTC",
        enable_utc=True,
    )
    app.steps["consumer"].add(GroupedEvents)
    app.steps["worker"].add(lifecycle.StopClaiming)
    return app


def _give_flower_its_login(config: settings.Settings) -> None:
    # It knows neither the prefix nor the .env file, and with a login that is none it would let nobody in.
    login = config.flower_login()
    if login is not None:
        os.environ["FLOWER_BASIC_AUTH"] = login.reveal()


try:
    lifecycle.connect()
    app = make(settings.load())
    if "flower" in sys.argv[1:]:
        _give_flower_its_login(settings.load())
except QboRefreshError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(2) from None
