"""Whether the database has the tables that this code needs. A newer schema is accepted: a roll-back must run."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy.exc

from qbo_refresh.errors import QboRefreshError
from worker import reaching
from worker.database import DatabaseUnavailable, is_passing, sqlstate

if TYPE_CHECKING:
    from alembic.config import Config

    from worker.database import Database
    from worker.settings import Settings

_CLONE = Path(__file__).resolve().parent.parent
_INSTALLED = Path(sysconfig.get_path("data")) / "share" / "qbo-refresh-worker"
_UNDEFINED_TABLE, _INVALID_SCHEMA, _NO_PRIVILEGE = "42P01", "3F000", "42501"


HEAD = "0003"
"""The revision that this code needs: the last of its migrations. Said here because Alembic costs a start 0.1 s."""


class NotMigrated(QboRefreshError):
    """The tables are missing, or older than this code."""


def alembic_config() -> Config:
    """Return Alembic's configuration for the migrations that come with this code, in a clone or installed."""
    from alembic.config import Config  # noqa: PLC0415  # with mako and pygments, which a worker never needs

    home = _CLONE if (_CLONE / "alembic.ini").exists() else _INSTALLED
    return Config(home / "alembic.ini")


def upgrade() -> None:
    """Make the tables, or bring them up to date: MIGRATION_DATABASE_URL, or DATABASE_URL."""
    from alembic import command  # noqa: PLC0415  # as above

    command.upgrade(alembic_config(), "head")


def revision(db: Database) -> str | None:
    """Return the revision that the database is at; None if it has no tables of ours.

    Raises:
        DatabaseUnavailable: It cannot be asked.
        NotMigrated: It may not be read by this role.
    """
    try:
        row = db.execute("SELECT version_num FROM qbo.alembic_version").one_or_none()
    except sqlalchemy.exc.DBAPIError as error:
        db.drop_connection()
        if sqlstate(error) in (_UNDEFINED_TABLE, _INVALID_SCHEMA):
            return None
        if sqlstate(error) == _NO_PRIVILEGE:
            raise NotMigrated("The role of DATABASE_URL may not read the schema's tables: grant it that.") from error
        if is_passing(error):
            raise DatabaseUnavailable(reaching.database(error).sentence) from error
        raise
    return str(row.version_num) if row else None


def check(db: Database, config: Settings) -> None:
    """Return if this code can work on the database's tables.

    Raises:
        NotMigrated: It cannot: they are missing or older.
        DatabaseUnavailable: PostgreSQL cannot be reached.
    """
    at = revision(db)
    if at is None:
        raise NotMigrated(f"The schema {config.database_schema!r} has no tables yet: run `qbo-refresh migrate`.")
    if at == HEAD or not _is_older(at):
        return
    raise NotMigrated(f"The tables are at revision {at}, this code needs {HEAD}: run `qbo-refresh migrate`.")


def _is_older(revision: str) -> bool:
    """Tell whether a revision is among this code's own; one that is not was made by a newer release."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # as above
    from alembic.util import CommandError  # noqa: PLC0415  # as above

    try:
        ScriptDirectory.from_config(alembic_config()).get_revision(revision)
    except CommandError:
        return False
    return True
