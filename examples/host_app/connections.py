"""How connections stand, for the host's pages: the view that the client's role may read. No token, no realm id."""

import os
from typing import Any

import psycopg
from psycopg.rows import dict_row

_STANDING = """
SELECT s.id, s.status, s.holds, s.frozen, s.last_refreshed_at, COALESCE(m.runs, 0) AS missed_runs
FROM qbo.connection_status s LEFT JOIN qbo.missed_runs m ON m.connection_id = s.id AND s.holds <> '{}'
WHERE %(external_id)s = ANY (s.external_ids)
"""


def standing(external_id: str) -> dict[str, Any] | None:
    """Return how a customer's connection stands, None if there is none."""
    with psycopg.connect(os.environ["QBO_DATABASE_URL"], row_factory=dict_row, prepare_threshold=None) as db:
        return db.execute(_STANDING, {"external_id": external_id}).fetchone()


def external_ids(connection_id: int) -> list[str]:
    """Return the names by which the host knows a connection."""
    with psycopg.connect(os.environ["QBO_DATABASE_URL"], prepare_threshold=None) as db:
        row = db.execute("SELECT external_ids FROM qbo.connection_status WHERE id = %s", (connection_id,)).fetchone()
    return list(row[0]) if row else []
