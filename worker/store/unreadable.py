"""Values that do not open: an episode for each app and key, so that a lost key is told once and not for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.status import Event
from worker import log
from worker.policy import UNREADABLE_PAUSE
from worker.store import events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from qbo_refresh.sealing import Unsealable
    from worker.attempt import OfApp
    from worker.database import Database

# What does not open is tried again after a pause: once that has passed twice, nothing is left of it.
_OVER_AFTER = 2 * UNREADABLE_PAUSE


@dataclass(frozen=True, slots=True)
class Episode:
    """Values of one app that do not open, for one reason.

    Attributes:
        key_id: The key that they name; None if they name none, or are no blobs of ours.
        reason: `key_missing`, or `does_not_open`: another key of that name, or a value that was moved or spoilt.
        met_at: When one was met last, to a quarter of an hour.
    """

    app_id: int
    key_id: str | None
    reason: str
    since: datetime
    met_at: datetime


# Met again it is only written down where that is news: thousands of rows may be met in a minute.
_MEET = """
INSERT INTO qbo.unreadable_keys AS u (app_id, key_id, key_missing)
SELECT %(app)s, %(key)s, %(missing)s WHERE NOT EXISTS (
    SELECT FROM qbo.unreadable_keys k
    WHERE k.app_id = %(app)s AND k.key_id = %(key)s AND k.key_missing = %(missing)s
      AND k.met_at BETWEEN now() - interval '15 minutes' AND now())
ON CONFLICT (app_id, key_id, key_missing) DO UPDATE SET met_at = now()
RETURNING since = now() AS is_new
"""


def meet(db: Database, of: OfApp, error: Unsealable, *, connection_id: int | None) -> None:
    """Note that a value of an app did not open; operators are told if that begins an episode. One transaction.

    Args:
        db: The database.
        of: The app.
        error: Why it did not open.
        connection_id: Whose it is; None for a consent's that has no connection yet.
    """
    values = {"app": of.app_id, "key": error.key_id or "", "missing": error.key_missing}
    with db.transaction():
        row = db.execute(_MEET, values).one_or_none()
        if row is None or not row.is_new:
            return
        payload: dict[str, str | int] = {"reason": _reason(key_missing=error.key_missing)}
        if error.key_id is not None:
            payload["key_id"] = error.key_id
        if connection_id is not None:
            payload["first_connection_id"] = connection_id
        events.emit_for_app(db, Event.ROW_UNREADABLE, environment=of.environment, client_id=of.client_id, **payload)


def close_quiet(db: Database, app_ids: Sequence[int]) -> None:
    """End the episodes of which nothing was met for two pauses, or that a stepped clock has put into the future."""
    ended = db.execute(
        "DELETE FROM qbo.unreadable_keys WHERE app_id = ANY (%(apps)s)"
        " AND met_at NOT BETWEEN now() - %(over)s::interval AND now() + %(over)s::interval"
        " RETURNING app_id, key_id, key_missing",
        {"apps": list(app_ids), "over": _OVER_AFTER},
    ).all()
    for row in ended:
        reason = _reason(key_missing=row.key_missing)
        log.info("unreadable.over", app_id=row.app_id, key_id=row.key_id or None, reason=reason)


def episodes(db: Database) -> Sequence[Episode]:
    """Return the episodes that stand, the oldest first."""
    rows = db.execute(
        "SELECT app_id, key_id, key_missing, since, met_at FROM qbo.unreadable_keys ORDER BY since, app_id, key_id"
    )
    return [
        Episode(row.app_id, row.key_id or None, _reason(key_missing=row.key_missing), row.since, row.met_at)
        for row in rows
    ]


def _reason(*, key_missing: bool) -> str:
    return "key_missing" if key_missing else "does_not_open"
