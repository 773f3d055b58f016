"""Looks after what no attempt notices: due connections that nobody refreshes, and a database that has changed."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from worker import log, policy
from worker.store import control, dispatch, unreadable, verdicts
from worker.store.totals import LATE, STALE, SWEEPS_MISSED

if TYPE_CHECKING:
    from worker.attempt import Keys
    from worker.database import Database
    from worker.escrow import RedisEscrow

LOOK_EVERY = timedelta(minutes=1)
_UNSWEPT = timedelta(minutes=10)


def look(db: Database, keys: tuple[Keys, ...], *, sweep_every: timedelta) -> None:
    """Tell operators once if connections stand still, and close what is over: guards, and keys that were missing.

    An app whose secrets are blocked or that is throttled stands still for a reason that was told already.
    """
    usable = list(dispatch.gates(db, keys).usable)
    unswept = max(_UNSWEPT, SWEEPS_MISSED * sweep_every)
    control.note_stalls(db, usable, late=LATE, unswept=unswept, stale=STALE)
    app_ids = [each.app_id for each in keys]
    verdicts.close_calm_guards(db, app_ids)
    unreadable.close_quiet(db, app_ids)


def start(
    db: Database, keys: tuple[Keys, ...], escrow: RedisEscrow, *, pace: policy.Pace, sweep_every: timedelta
) -> threading.Thread:
    """Look once a minute until this process stops, in a thread of its own: the broker may be what is away.

    What the escrow has put off is done then, too: a small fleet would keep copies for days until there were enough.
    Where nobody sweeps, this is who notices a failover: until somebody has, nothing is claimed.
    """

    def watch() -> None:
        while not db.stopping.wait(LOOK_EVERY.total_seconds()):
            escrow.flush()
            try:
                control.recognise(db, lease=pace.lease)
                look(db, keys, sweep_every=sweep_every)
            except DBAPIError as error:
                db.drop_connection()
                log.debug("watch.failed", error=type(error).__name__)

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    return thread
