"""`migrate` and `adopt-database`."""

from __future__ import annotations

import click
import sqlalchemy.exc

from qbo_refresh.errors import QboRefreshError
from worker import schema, settings
from worker.cli.choosing import open_database
from worker.cli.printing import json_option, print_json
from worker.database import LOCK_NOT_AVAILABLE, Database, DatabaseUnavailable, is_passing, sqlstate
from worker.moments import from_now
from worker.policy.verdicts import EPOCH_WAIT
from worker.store import control
from worker.store.control import Identity


@click.command()
@json_option
def migrate(*, as_json: bool) -> None:
    """Make or update the tables, in the schema DATABASE_SCHEMA. Safe to repeat, and while workers run."""
    config = settings.load()
    db = Database(config.database(migration=True), schema=config.database_schema)
    before = schema.revision(db)
    try:
        schema.upgrade()
    except sqlalchemy.exc.DBAPIError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
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


class NothingToAdopt(QboRefreshError):
    """This is the database that the control row knows, or somebody thought better of it."""


@click.command("adopt-database")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def adopt_database(*, yes: bool, as_json: bool) -> None:
    """Make this PostgreSQL cluster the one that refreshes.

    The worker knows its cluster by PostgreSQL's system identifier. Where the rows turn up in another one, after a dump
    and restore, a major upgrade or a logical replica, nothing is sent before somebody says here that this is the
    one now. A new epoch begins: quiet for one lease, the escrow is looked into first, verdicts wait for a day.

    Never say it in a copy of production, such as a review or staging app: a refresh there replaces the token that
    production has, and every customer of it must reconnect. A copy that needs to refresh gets connections of its own,
    to sandbox companies.
    """
    config = settings.load()
    with open_database(config) as db:
        known = control.look(db, lease=config.pace.lease)
        if known.identity not in (Identity.ANOTHER, Identity.NO_CONTROL_ROW):
            changed = f"; its last change was {from_now(known.epoch_since, known.at)}" if known.epoch_since else ""
            raise NothingToAdopt(f"Nothing to adopt: this is the database that the control row knows{changed}.")
        missing = known.identity is Identity.NO_CONTROL_ROW
        if not as_json:
            was = "no control row" if missing else f"system {known.system_identifier}, timeline {known.timeline}"
            click.echo(f"The control row knows  {was}")
            click.echo(f"This is                system {known.system_identifier_now}, timeline {known.timeline_now}")
            click.echo("If another database with these rows still refreshes, adopting this one costs those grants.")
        if not yes and not click.confirm("Is this the only one that refreshes from now on?", err=as_json):
            raise NothingToAdopt("Nothing was adopted: nothing is sent.")
        control.adopt(db)
        now = control.look(db, lease=config.pace.lease)
    if as_json:
        print_json(
            {
                "adopted": True,
                "system_identifier_before": known.system_identifier,
                "system_identifier": now.system_identifier,
                "timeline": now.timeline,
                "epoch": now.epoch,
                "epoch_since": now.epoch_since,
            }
        )
        return
    hours = round(EPOCH_WAIT.total_seconds() / 3600)
    click.echo(
        f"Adopted. Refreshes begin in {round(config.lease_seconds)} s, a tenth of the rate at first; verdicts wait"
        f" {hours} h, or for `qbo-refresh guard release`."
    )
    if missing:
        click.echo("Whether everything was frozen is forgotten: it is not frozen now.")
