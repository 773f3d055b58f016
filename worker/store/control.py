"""The control row: which database this is, since when, whether it rests, and with which LOOKUP_KEY it was made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from qbo_refresh.errors import QboRefreshError
from qbo_refresh.status import Event
from worker.store import events
from worker.store.apps import IS_THROTTLED

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from qbo_refresh.sealing import Lookup
    from worker.database import Database


class WrongLookupKey(QboRefreshError):
    """Under another LOOKUP_KEY no realm and no token would be recognised: one grant would get two rows."""


class Identity(Enum):
    """What the database turned out to be."""

    SAME = "same"
    QUIET = "quiet"
    """It failed over or was restored less than a lease ago: attempts of the old epoch may still be under way."""
    ANOTHER = "another"
    """Another cluster with our rows, a copy or an upgrade: nothing is sent until somebody adopts it."""
    NO_CONTROL_ROW = "no control row"


@dataclass(frozen=True, slots=True)
class Known:
    """Which database the control row knows, and which one this is; what the server does not tell is None.

    Attributes:
        at: The database's time.
        epoch_since: When it changed last, as far as anybody has noticed; None if it never did.
    """

    identity: Identity
    at: datetime
    system_identifier: str | None = None
    timeline: int | None = None
    system_identifier_now: str | None = None
    timeline_now: int | None = None
    epoch: int = 1
    epoch_since: datetime | None = None


_READ = """
SELECT now() AS at, system_identifier, timeline, epoch, epoch_since, told_system_identifier,
       qbo.system_identifier() AS system_identifier_now, qbo.timeline() AS timeline_now,
       COALESCE(epoch_since > now() - %(lease)s::interval, false) AS is_quiet
FROM qbo.control
"""
_THERE = "SELECT now() AS at, qbo.system_identifier() AS system_identifier, qbo.timeline() AS timeline"
_FIRST = """
UPDATE qbo.control SET system_identifier = %(system)s, timeline = %(timeline)s
WHERE system_identifier IS NULL AND timeline IS NULL
"""
_NEW_EPOCH = """
UPDATE qbo.control SET timeline = %(timeline)s, epoch = epoch + 1, epoch_since = now()
WHERE timeline IS DISTINCT FROM %(timeline)s::int AND system_identifier IS NOT DISTINCT FROM %(system)s::text
"""
_TOLD = """
UPDATE qbo.control SET told_system_identifier = %(system)s WHERE told_system_identifier IS DISTINCT FROM %(system)s
"""


def recognise(db: Database, *, lease: timedelta) -> Identity:
    """Compare the database with the one that the control row knows; note and tell what has changed, once.

    Claims compare it as well, so that nothing is sent before this was asked.
    """
    with db.transaction():
        row = db.execute(_READ, {"lease": lease}).one_or_none()
        if row is None:
            return Identity.NO_CONTROL_ROW
        now = {"system": row.system_identifier_now, "timeline": row.timeline_now}
        if row.system_identifier is None and row.timeline is None:
            db.execute(_FIRST, now)
            return Identity.SAME
        if _differ(row.system_identifier, row.system_identifier_now):
            if db.execute(_TOLD, now).rowcount:
                events.emit_for_app(db, Event.DATABASE_CHANGED, reason="another_database")
            return Identity.ANOTHER
        if _differ(row.timeline, row.timeline_now):
            if db.execute(_NEW_EPOCH, now).rowcount:
                events.emit_for_app(
                    db,
                    Event.DATABASE_CHANGED,
                    reason="new_timeline",
                    timeline_before=row.timeline,
                    timeline=row.timeline_now,
                )
            return Identity.QUIET
        return Identity.QUIET if row.is_quiet else Identity.SAME


def look(db: Database, *, lease: timedelta) -> Known:
    """Compare the database with the one that the control row knows, and change nothing."""
    row = db.execute(_READ, {"lease": lease}).one_or_none()
    if row is None:
        there = db.execute(_THERE).one()
        return Known(
            Identity.NO_CONTROL_ROW,
            there.at,
            system_identifier_now=there.system_identifier,
            timeline_now=there.timeline,
        )
    if _differ(row.system_identifier, row.system_identifier_now):
        identity = Identity.ANOTHER
    elif row.is_quiet or _differ(row.timeline, row.timeline_now):
        identity = Identity.QUIET
    else:
        identity = Identity.SAME
    return Known(
        identity,
        row.at,
        row.system_identifier,
        row.timeline,
        row.system_identifier_now,
        row.timeline_now,
        row.epoch,
        row.epoch_since,
    )


def _differ(known: Any, now: Any) -> bool:
    return known is not None and now is not None and known != now


_ADOPT = """
UPDATE qbo.control SET system_identifier = qbo.system_identifier(), timeline = qbo.timeline(), epoch = epoch + 1,
       epoch_since = now(), thawed_at = now(), told_system_identifier = NULL
"""


def adopt(db: Database) -> None:
    """Make this cluster the one that sends. A new epoch: a lease's silence, the escrow first, verdicts wait a day.

    A control row that is missing is made anew, as frozen as nobody remembers: not frozen.
    """
    with db.transaction():
        db.execute("INSERT INTO qbo.control DEFAULT VALUES ON CONFLICT DO NOTHING")
        db.execute(_ADOPT)


# Due for too long; or, though it is tried again and again, not refreshed for more than a day: what fails is due again
# within the hour, so that it stands at the front of what is due.
_IS_STALLED = f"""
NOT EXISTS (SELECT FROM qbo.control WHERE frozen) AND {IS_THROTTLED.format("a")} IS NOT TRUE
AND (EXISTS (SELECT FROM qbo.connections c
             WHERE c.app_id = a.id AND NOT c.frozen
               AND c.due_at <= now() - CASE WHEN a.swept_at > now() - %(unswept)s::interval
                                            THEN %(late)s::interval ELSE %(unswept)s::interval END)
     OR EXISTS (SELECT FROM (SELECT c.status, c.last_refreshed_at, c.created_at FROM qbo.connections c
                             WHERE c.app_id = a.id AND NOT c.frozen AND c.due_at <= now() + interval '1 hour'
                             ORDER BY c.due_at, c.id LIMIT 1000) AS front
                WHERE front.status IN ('active', 'suspect')
                  AND COALESCE(front.last_refreshed_at, front.created_at) <= now() - %(stale)s::interval))
"""  # noqa: S608  # composed of constants
_BEGIN_STALL = f"""
UPDATE qbo.apps a SET stalled_since = now() WHERE a.id = ANY (%(apps)s) AND a.stalled_since IS NULL AND {_IS_STALLED}
RETURNING a.environment, a.client_id
"""  # noqa: S608  # composed of constants
_END_STALL = f"""
UPDATE qbo.apps a SET stalled_since = NULL
WHERE a.id = ANY (%(apps)s) AND a.stalled_since IS NOT NULL AND NOT ({_IS_STALLED})
"""  # noqa: S608  # composed of constants


def note_stalls(db: Database, app_ids: list[int], *, late: timedelta, unswept: timedelta, stale: timedelta) -> None:
    """Tell operators, once an episode and app, that connections are not refreshed.

    Args:
        db: The database.
        app_ids: Apps that could go: their secrets are here and not blocked. Others are not ours to judge.
        late: A row that is due for longer stands still, though sweeps run.
        unswept: Without a sweep for so long, a row that is due for as long stands still.
        stale: A row that was not refreshed for longer does, though it is tried.
    """
    values = {"apps": app_ids, "late": late, "unswept": unswept, "stale": stale}
    with db.transaction():
        db.execute(_END_STALL, values)
        for app in db.execute(_BEGIN_STALL, values).all():
            events.emit_for_app(db, Event.REFRESHES_STALLED, environment=app.environment, client_id=app.client_id)


def recognises(db: Database, lookup: Lookup) -> bool | None:
    """Tell whether LOOKUP_KEY is this database's own; None if it has none yet."""
    row = db.execute("SELECT lookup_check FROM qbo.control").one_or_none()
    if row is None or row.lookup_check is None:
        return None
    return bool(row.lookup_check == lookup.check_value())


def check_lookup(db: Database, lookup: Lookup) -> None:
    """Return if LOOKUP_KEY is this database's own; the first one that is used becomes that.

    Raises:
        WrongLookupKey: It is another.
    """
    if recognises(db, lookup) is None:
        db.execute(
            "UPDATE qbo.control SET lookup_check = %(check)s WHERE lookup_check IS NULL",
            {"check": lookup.check_value()},
        )
    if recognises(db, lookup) is False:
        raise WrongLookupKey(
            "LOOKUP_KEY is not the one that this database was made with: put that one back; it never changes."
        )
