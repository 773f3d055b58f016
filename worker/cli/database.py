"""`migrate`."""

from __future__ import annotations

import click
import sqlalchemy.exc

from alembic import command
from worker import schema, settings
from worker.cli.common import json_option, print_json
from worker.database import Database, DatabaseUnavailable, is_passing, sqlstate


@click.command()
@json_option
def migrate(*, as_json: bool) -> None:
    """Make or update the tables, in the schema DATABASE_SCHEMA. Safe to repeat, and while workers run."""
    config = settings.load()
    db = Database(config.database(migration=True), schema=config.database_schema)
    before = schema.revision(db)
    try:
        command.upgrade(schema.alembic_config(), "head")
    except sqlalchemy.exc.DBAPIError as error:
        if sqlstate(error) == "55P03":
            raise DatabaseUnavailable(
                "A long-running statement holds a table: nothing was changed; run `qbo-refresh migrate` again."
            ) from error
        if is_passing(error):
            raise DatabaseUnavailable("PostgreSQL went away: nothing was changed.") from error
        raise
    after = schema.revision(db)
    db.close()
    if as_json:
        print_json({"schema": config.database_schema, "before": before, "after": after})
    elif before == after:
        click.echo(f"The schema {config.database_schema!r} is up to date (revision {after}).")
    else:
        click.echo(f"The schema {config.database_schema!r} is at revision {after} now (was: {before or 'no tables'}).")
