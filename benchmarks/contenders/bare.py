"""Contender (a): threads that POST with `requests` and write the tokens with one UPDATE. No queue, no lock, no ledger.

The floor: what any refresher in Python with these libraries has to spend. Each thread keeps a session; the UPDATE goes
through SQLAlchemy Core on a pool, in autocommit. Takes one order a line and answers each with one line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests
import sqlalchemy as sa

CONCURRENCY = int(os.environ["CONCURRENCY"])
TOKEN_URL = os.environ["INTUIT_TOKEN_URL"]
KEYS = (os.environ["INTUIT_CLIENT_ID"], os.environ["INTUIT_CLIENT_SECRET"])

engine = sa.create_engine(
    os.environ["SQLALCHEMY_URL"], isolation_level="AUTOCOMMIT", pool_size=CONCURRENCY, max_overflow=0
)
UPDATE = sa.text(
    "UPDATE bench.bare SET refresh_token = :refresh_token, access_token = :access_token,"
    " access_expires_at = now() + make_interval(secs => :expires_in), refreshed_at = now() WHERE id = :id"
)
local = threading.local()


@dataclass(slots=True)
class Row:
    """What the process knows of a connection."""

    id: int
    refresh_token: str


def session() -> requests.Session:
    """Return this thread's session."""
    if not hasattr(local, "session"):
        local.session = requests.Session()
    kept: requests.Session = local.session
    return kept


def refresh(row: Row) -> None:
    """Refresh one connection."""
    answer = session().post(
        TOKEN_URL,
        data={"grant_type": "refresh_token", "refresh_token": row.refresh_token},
        auth=KEYS,
        headers={"Accept": "application/json"},
        timeout=20,
    )
    answer.raise_for_status()
    tokens = answer.json()
    row.refresh_token = tokens["refresh_token"]
    with engine.connect() as connection:
        connection.execute(
            UPDATE,
            {
                "id": row.id,
                "refresh_token": tokens["refresh_token"],
                "access_token": tokens["access_token"],
                "expires_in": tokens["expires_in"],
            },
        )


def main() -> None:
    """Refresh the first so many connections for each order, `{"count": 3000}`."""
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT id, refresh_token FROM bench.bare ORDER BY id"))
        rows = [Row(row.id, row.refresh_token) for row in found]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        for line in sys.stdin:
            for _ in pool.map(refresh, rows[: json.loads(line)["count"]]):
                pass
            sys.stdout.write("{}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
