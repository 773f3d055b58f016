"""The host's Celery app. What it needs for QuickBooks is one line; everything else was here before."""

import os

from celery import Celery

import qbo_refresh

app = Celery("host_app", broker=os.environ["BROKER_URL"], include=["host_app.tasks"])
app.conf.update(
    task_default_queue="host",
    task_ignore_result=True,
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    beat_schedule_filename=os.environ.get("BEAT_FILE", "celerybeat-schedule"),
    beat_schedule={
        "sync-everyone": {
            "task": "host_app.sync_everyone",
            "schedule": float(os.environ.get("SYNC_EVERY_SECONDS", "3600")),
        },
        "report": {"task": "host_app.report", "schedule": 86_400.0},
    },
)

# The rest comes from the environment: QBO_DATABASE_URL, CLIENT_KEYS, INTUIT_REDIRECT_URL. Nothing is connected yet.
qbo_refresh.configure(app=app)
