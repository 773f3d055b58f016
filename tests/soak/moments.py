"""A database whose clock is set by hand: `now()` and `clock_timestamp()` say what a setting of the session says.

The functions stand in a schema that the search path names before PostgreSQL's own. Nothing of the worker's SQL is
changed, and no moment in its tables is moved: a connection's time of day, which is what spreads the load, stays true.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from datetime import datetime

    from worker.database import Database

# In this form, and no longer, PostgreSQL puts the function's body in its place.
_NOW = "RETURNS timestamptz LANGUAGE sql STABLE RETURN pg_catalog.current_setting('business.at')::timestamptz"
_CLOCK = f"""
CREATE SCHEMA business;
CREATE FUNCTION business.now() {_NOW};
CREATE FUNCTION business.clock_timestamp() {_NOW};
ALTER TABLE qbo.outbox ALTER COLUMN created_at SET DEFAULT business.now();
ALTER TABLE qbo.candidates ALTER COLUMN received_at SET DEFAULT business.now();
ALTER TABLE qbo.sync_holds ALTER COLUMN since SET DEFAULT business.now();
"""


def set_by_hand(database_url: str, at: datetime) -> None:
    """Have sessions of a migrated database that are opened from now on begin at a time, and stay there until told."""
    name = sql.Identifier(urlsplit(database_url).path.lstrip("/"))
    settings = {"search_path": "business, pg_catalog, public", "business.at": at.isoformat()}
    # What a crash would lose is thrown away with the server; durability is not what is tried here.
    settings["synchronous_commit"] = "off"
    # A sweep's statements come once an hour of these days; to plan each anew would take longer than to run them.
    settings["plan_cache_mode"] = "force_generic_plan"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_CLOCK.encode())
        for option, value in settings.items():
            assigned = sql.SQL(value) if option == "search_path" else sql.Literal(value)
            named = sql.SQL(option)
            connection.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, named, assigned))


class SessionClock:
    """The time that one process's sessions live at."""

    def __init__(self, db: Database, at: datetime) -> None:
        self._local = threading.local()
        self._db = db
        self.at = at

    def tell(self) -> None:
        """Let this thread's session live at `at`; it costs one statement after each step."""
        if getattr(self._local, "told", None) != self.at:
            self._db.execute("SELECT set_config('business.at', %(at)s, false)", {"at": self.at.isoformat()})
            self._local.told = self.at
