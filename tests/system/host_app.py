"""A host's Celery app for tests: `celery -A tests.system.host_app worker …`, its tasks write down that they ran."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import redis
from celery import Celery

import qbo_refresh
from qbo_refresh import SyncTask

app = Celery("host", broker=os.environ["HOST_BROKER_URL"], backend=os.environ["HOST_BROKER_URL"])
app.conf.task_default_queue = "host"
app.conf.broker_connection_retry_on_startup = True


def note(what: str, connection_id: object) -> None:
    """Write down that a task got so far."""
    with Path(os.environ["HOST_NOTES"]).open("a") as file:
        file.write(f"{what} {connection_id}\n")


@app.task(base=SyncTask, name="host.sync")
def sync(connection_id: int) -> str:
    """Sync with nothing but the token."""
    note("began", connection_id)
    token = qbo_refresh.access_token(connection_id)
    note("synced", connection_id)
    return f"version {token.version}"


@app.task(base=SyncTask, name="host.sync_pausing", bind=True, autoretry_for=(Exception,), connection_arg="company")
def sync_pausing(self: Any, what: str, company: str = "none") -> None:
    """Meet a pause in mid-sync: the operator holds it while it runs."""
    note(what, company)
    with redis.Redis.from_url(os.environ["HOST_BROKER_URL"], decode_responses=True) as valkey:
        valkey.lpush("host:reached", company)
        valkey.blpop(["host:go"], timeout=30)
    qbo_refresh.access_token(company)
    note("not reached", company)
    assert self


@app.task(base=SyncTask, name="host.sync_anyway", when_database_is_away="run")
def sync_anyway(connection_id: int) -> None:
    """Run even when nobody knows."""
    note("anyway", connection_id)


@app.task(base=SyncTask, name="host.sync_or_not", when_database_is_away="skip")
def sync_or_not(connection_id: int) -> None:
    """Run only when somebody knows."""
    note("or not", connection_id)


@app.task(name="host.total")
def total(results: list[str | None]) -> list[str | None]:
    """End a chord."""
    return results
