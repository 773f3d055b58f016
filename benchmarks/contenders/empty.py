"""A Celery task that does nothing: what the queue alone costs."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("empty", broker=os.environ["REDIS_URL"])
app.conf.update(task_default_queue="empty", task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="empty.nothing")
def nothing(connection_id: int) -> None:
    """Do nothing."""
