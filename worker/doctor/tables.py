"""Checks of PostgreSQL: the server, the tables, what the role may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import ArgumentError, DBAPIError

from worker import reaching, schema
from worker.database import Database, DatabaseUnavailable
from worker.doctor.patient import Skipped, Wrong
from worker.store import inspection

if TYPE_CHECKING:
    from worker.doctor.patient import Patient

OLDEST_POSTGRES = 14
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
    reason = inspection.frozen(patient.database())
    if reason is not None:
        raise Wrong(f"Everything is frozen ({reason or 'no reason given'}): `qbo-refresh thaw --all` ends it.")
    return "not frozen"


def connections(patient: Patient) -> str:
    """Check that PostgreSQL has room for a worker."""
    room = inspection.room(patient.database(migrated=False))
    text = f"max_connections {room.most}, {room.used} in use; each worker thread keeps one (20 by default)"
    if patient.pooled:
        raise Skipped(f"{text}; the pooler decides how many get there")
    if room.most - room.used < WORKERS_CONNECTIONS:
        raise Wrong(f"{text}: raise max_connections, use fewer threads (-c), or put PgBouncer between.")
    return text
