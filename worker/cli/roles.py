"""`roles`: what the worker and a host's processes may do, in PostgreSQL and in Redis or Valkey."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from worker import settings
from worker.cli.choosing import open_database
from worker.cli.printing import json_option, print_json
from worker.database import migration_engine
from worker.store import roles as store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.settings import Settings

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@click.command()
@click.option("--worker", default="qbo_worker", show_default=True, help="The role of workers and of this program.")
@click.option("--client", default="qbo_client", show_default=True, help="The role of a host's processes.")
@click.option("--apply", is_flag=True, help="Carry the SQL out, as the user of MIGRATION_DATABASE_URL or DATABASE_URL.")
@json_option
def roles(*, worker: str, client: str, apply: bool, as_json: bool) -> None:
    """Print the SQL that makes two roles in PostgreSQL, and ACL lines for Redis or Valkey.

    The worker's role reads and writes everything; the other one is for processes that use the package qbo_refresh: it
    cannot read refresh tokens. Neither has a password yet: ALTER ROLE … LOGIN PASSWORD '…'. Run it again after each
    migration.
    """
    for name in (worker, client):
        if not _NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r}: use small letters, digits and _.", param_hint="--worker, --client")
    config = settings.load()
    sql = list(store.statements(schema=config.database_schema, worker=worker, client=client))
    acl = list(store.valkey_lines(worker=worker, client=client))
    if apply:
        _carry_out(config, sql)
    if as_json:
        print_json({"sql": sql, "valkey": acl, "applied": apply})
        return
    if apply:
        click.echo(f"The roles {worker} and {client} have what they need in the schema {config.database_schema!r}.")
    else:
        click.echo("".join(f"{statement};\n" for statement in sql))
    click.echo("# For the ACL file of Redis or Valkey:")
    click.echo("\n".join(acl))


def _carry_out(config: Settings, sql: Sequence[str]) -> None:
    with open_database(config):
        pass  # the tables are there
    engine = migration_engine(config)
    with engine.begin() as connection:
        for statement in sql:
            connection.exec_driver_sql(statement)
    engine.dispose()
