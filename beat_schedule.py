"""What Celery beat sends, as plain data: a host with a beat of its own may take it over.

    app.conf.beat_schedule.update(beat_schedule.BEAT_SCHEDULE)

The seconds between two sweeps are those of SWEEP_SECONDS when `worker.app` runs the beat.
"""

BEAT_SCHEDULE = {
    "dispatch-due": {
        "task": "worker.tasks.dispatch_due",
        "schedule": 60.0,
        # Not behind a backlog of refreshes, or a sweep could not tell how long that is.
        "options": {"queue": "qbo.adhoc"},
    },
    "deliver-events": {
        "task": "worker.tasks.deliver_events",
        "schedule": 10.0,
        "options": {"queue": "qbo.events"},
    },
}
