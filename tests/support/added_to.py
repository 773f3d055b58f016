"""The worker's app where something adds to each message that is published what the worker refuses."""

from __future__ import annotations

from typing import Any

from celery import signals

from worker.app import app

__all__ = ["app"]


@signals.before_task_publish.connect(weak=False)
def _add(headers: dict[str, Any], **_: Any) -> None:
    headers["chain"] = ["host.next"]
