"""Notices that due connections are not refreshed, whoever is to blame: beat, the broker, or the workers themselves."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from worker import log
from worker.store import control, dispatch
from worker.store.totals import LATE

if TYPE_CHECKING:
    from worker.attempt import Keys
    from worker.database import Database

LOOK_EVERY = timedelta(minutes=1)
_UNSWEPT = timedelta(minutes=10)
_SWEEPS_MISSED = 3


def look(db: Database, keys: tuple[Keys, ...], *, sweep_every: timedelta) -> bool:
    """Tell operators once if what is due stands still; True while it does.

    An app whose secrets are blocked or that is throttled stands still for a reason that was told already.
    """
    usable, _ = dispatch.open_apps(db, keys)
    return control.note_stall(db, usable, late=LATE, unswept=max(_UNSWEPT, _SWEEPS_MISSED * sweep_every))


def start(db: Database, keys: tuple[Keys, ...], *, sweep_every: timedelta) -> threading.Thread:
    """Look once a minute until this process stops, in a thread of its own: the broker may be what is away."""

    def watch() -> None:
        while not db.stopping.wait(LOOK_EVERY.total_seconds()):
            try:
                look(db, keys, sweep_every=sweep_every)
            except DBAPIError as error:
                db.drop_connection()
                log.debug("watch.failed", error=type(error).__name__)

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    return thread
