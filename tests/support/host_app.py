"""A host's own Celery app, as small as they come: its event task writes down what it is called with.

    celery -A tests.support.host_app worker -P solo

HOST_BROKER is its broker, and the list `received` there is what has come. It knows nothing of the worker.
"""

from __future__ import annotations

import json
import os
from typing import Any

import redis
from celery import Celery

TASK = "host.tasks.on_event"
QUEUE = "host.default"
RECEIVED = "received"

app = Celery("host", broker=os.environ.get("HOST_BROKER", "memory://"))
app.conf.update(task_default_queue=QUEUE, broker_connection_retry_on_startup=True)


@app.task(name=TASK)
def on_event(event: dict[str, Any]) -> None:
    """Write an event down."""
    with redis.Redis.from_url(os.environ["HOST_BROKER"]) as client:
        client.rpush(RECEIVED, json.dumps(event))
