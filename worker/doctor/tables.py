"""Checks of PostgreSQL: the server, the tables, what the role may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import ArgumentError, DBAPIError

from worker import policy, reaching, schema
from worker.database import Database, DatabaseUnavailable
from worker.doctor.patient import Skipped, Wrong
from worker.store import control, inspection, totals
from worker.store.control import Identity

if TYPE_CHECKING:
    from worker.doctor.patient import Patient

OLDEST_POSTGRES = 14
_SHOWN = 5
WORKERS_CONNECTIONS = 25  # a worker of 20 threads, a sweep, and this program


def database(patient: Patient) -> str:
    """Say what the server is, and whether something stands between."""
    try:
        db = Database(patient.config.database(), schema=patient.config.database_schema)
        server = inspection.server(db)
    except (ArgumentError, ValueError):
        raise Wrong(reaching.malformed("DATABASE_URL").sentence) from None
    except DBAPIError as error:
        raise Wrong(reaching.database(error).sentence) from error
    patient.db, patient.pooled = db, server.pooled
    if server.version // 10_000 < OLDEST_POSTGRES:
        raise Wrong(f"PostgreSQL {server.version // 10_000} is too old: use {OLDEST_POSTGRES} or later.")
    if server.read_only:
        raise Wrong("This PostgreSQL takes no writes: point DATABASE_URL at the primary.")
    return f"PostgreSQL {server.version // 10_000}.{server.version % 10_000}" + (
        ", behind PgBouncer or another pooler" if server.pooled else ", no pooler between"
    )


def migrated(patient: Patient) -> str:
    """Check that the tables are those of this release."""
    db = patient.database(migrated=False)
    try:
        schema.check(db, patient.config)
    except DatabaseUnavailable as error:
        raise Skipped("the database cannot be reached any more") from error
    patient.migrated = True
    return f"the tables in the schema {patient.config.database_schema!r} are those that this release needs"


def privileges(patient: Patient) -> str:
    """Check that the role may read and write."""
    missing = inspection.missing_privileges(patient.database(), schema=patient.config.database_schema)
    if missing:
        raise Wrong(f"The role may not {'; '.join(missing)}: grant it that.")
    return "the role may read and write every table"


def frozen(patient: Patient) -> str:
    """Check that nothing is frozen as a whole."""
    if control.look(patient.database(), lease=patient.config.pace.lease).identity is Identity.NO_CONTROL_ROW:
        raise Wrong(
            "The row of the table control is missing: nothing is sent. If this database is the one that sends:"
            " `qbo-refresh adopt-database`."
        )
    reason = inspection.frozen(patient.database())
    if reason is not None:
        raise Wrong(f"Everything is frozen ({reason or 'no reason given'}): `qbo-refresh thaw --all` ends it.")
    return "not frozen"


def identity(patient: Patient) -> str:
    """Tell whether this is the database that the control row knows, and what the server does not tell."""
    known = control.look(patient.database(), lease=patient.config.pace.lease)
    hidden = [
        name
        for name, value in (("system identifier", known.system_identifier_now), ("timeline", known.timeline_now))
        if value is None
    ]
    blind = f"; this server does not tell its {' and its '.join(hidden)}: {_UNSEEN[tuple(hidden)]}" if hidden else ""
    match known.identity:
        case Identity.NO_CONTROL_ROW:
            raise Skipped(f"the control row is missing{blind}")
        case Identity.ANOTHER:
            raise Wrong(
                f"This is another PostgreSQL cluster ({known.system_identifier_now}) than the one that the rows were"
                f" refreshed in ({known.system_identifier}): nothing is sent. A copy must stay so. If this one is to"
                f" send, and the other never will again: `qbo-refresh adopt-database`{blind}."
            )
        case Identity.QUIET:
            return f"it failed over or was restored just now: nothing is sent for one lease, then it goes on{blind}"
    since = known.epoch_since
    changed = f", since {since:%Y-%m-%d %H:%M %Z}" if since else ""
    if since and inspection.now(patient.database()) - since < policy.DAY:
        changed += " (for a day from then verdicts wait, or for `qbo-refresh guard release`; sweeps began slowly)"
    return f"the one that the control row knows, epoch {known.epoch}{changed}{blind}"


_UNSEEN = {
    ("system identifier",): "a copy on another cluster is not recognised; freeze before you copy",
    ("timeline",): "a failover and a restore are not recognised; after one, `qbo-refresh freeze --all` and look",
    ("system identifier", "timeline"): "neither a copy nor a failover nor a restore is recognised; freeze before each",
}


def leases(patient: Patient) -> str:
    """Check that no lease ends later than any can."""
    found = inspection.impossible_leases(patient.database())
    if found:
        shown = ", ".join(map(str, found[:_SHOWN])) + (", …" if len(found) > _SHOWN else "")
        raise Wrong(
            f"{len(found)} leases end more than an hour from now, which none can (connections {shown}): a sweep lets"
            " each end once its connection is an hour late. Somebody wrote them by hand, or stepped PostgreSQL's"
            " clock back."
        )
    return "none ends later than it can"


def waiting(patient: Patient) -> str:
    """Check that consents are exchanged and ended grants revoked."""
    found = totals.control(patient.database())
    parts = [
        (f"{found.consents} consents not exchanged", found.consents_since, totals.UNEXCHANGED),
        (f"{found.revocations} tokens not revoked yet", found.revocations_since, totals.UNREVOKED),
    ]
    late = [
        f"{what} since {since:%Y-%m-%d %H:%M %Z}" for what, since, most in parts if since and found.at - since > most
    ]
    if late:
        raise Wrong(f"{' and '.join(late)}: are workers and beat running, and can they reach Intuit?")
    return f"{found.consents} consents and {found.revocations} revocations on their way"


def connections(patient: Patient) -> str:
    """Check that PostgreSQL has room for a worker."""
    room = inspection.room(patient.database(migrated=False))
    text = f"max_connections {room.most}, {room.used} in use; each worker thread keeps one (20 by default)"
    if patient.pooled:
        raise Skipped(f"{text}; the pooler decides how many get there")
    if room.most - room.used < WORKERS_CONNECTIONS:
        raise Wrong(f"{text}: raise max_connections, use fewer threads (-c), or put PgBouncer between.")
    return text
