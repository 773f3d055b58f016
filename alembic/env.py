"""Runs the migrations inside DATABASE_SCHEMA: unqualified DDL under a search_path, on a direct connection."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import context
from qbo_refresh.tables import metadata
from worker.database import migration_engine
from worker.settings import load

settings = load()
schema = settings.database_schema
engine = migration_engine(settings)


def _ours(_object: object, name: str | None, type_: str, reflected: bool, _compare: object) -> bool:  # noqa: FBT001  # Alembic's signature
    return not (type_ == "table" and reflected and name == "alembic_version")


with engine.begin() as connection:
    # Two deploys at once: the second waits for the first and then finds nothing to do.
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('qbo-refresh/migrate'))"))
    connection.execute(sa.text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
    connection.execute(sa.text(f'SET LOCAL search_path TO "{schema}"'))
    # Behind a long query on a live table a migration gives up instead of stopping every refresh.
    connection.execute(sa.text("SET LOCAL lock_timeout TO '5s'"))
    connection.dialect.default_schema_name = schema
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=schema,
        include_object=_ours,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
