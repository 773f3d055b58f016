"""Tells a monitor elsewhere that a sweep went well, so that a dead beat is noticed. Never in the way of a sweep."""

from __future__ import annotations

import requests

from worker import log


def beat(url: str) -> None:
    """Ask HEARTBEAT_URL once; a failure is logged and nothing else."""
    try:
        requests.get(url, timeout=5).raise_for_status()
    except requests.RequestException as error:
        log.warning("heartbeat.failed", error=type(error).__name__)
