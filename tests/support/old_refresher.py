"""An old refresher, as people write them: a table of its own, a schedule of its own, the new token over the old one.

It does one thing for the cut-over: before each refresh it asks the view `connection_status` whose the connection is.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urlsplit

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from intuit_simulator import Simulator
    from intuit_simulator.client import CreatedGrant

# docs/cutover.md shows this very query.
_WHOSE = """
SELECT s.taken_over FROM qbo.connection_status s
JOIN qbo.external_ids x ON x.connection_id = s.id WHERE x.external_id = %s
"""


def _now() -> str:
    return datetime.now(UTC).isoformat()  # noqa: TID251  # its own clock


@dataclass(slots=True)
class Entry:
    """One row of its table."""

    external_id: str
    realm_id: str
    refresh_token: str = field(repr=False)
    token_obtained_at: str = field(default_factory=_now)
    refreshes: int = 0


class OldRefresher:
    """Refreshes its table over and over, in a few threads, each with its part of the rows."""

    def __init__(
        self, simulator: Simulator, database_url: str, grants: Sequence[CreatedGrant], *, threads: int = 2
    ) -> None:
        self.entries = {grant.realm_id: Entry(f"old-{n}", *_of(grant)) for n, grant in enumerate(grants)}
        self.refused: list[str] = []
        self._simulator, self._database_url = simulator, database_url
        self._ends = threading.Event()
        rows = list(self.entries.values())
        # Each is held from the question to the save: who wants to know that nothing is under way takes it once.
        self._busy = [threading.Lock() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._run, args=(rows[n::threads], lock)) for n, lock in enumerate(self._busy)
        ]

    def __enter__(self) -> Self:
        """Start."""
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._ends.set()
        for each in self._threads:
            each.join()

    def wait_for_calls_under_way(self) -> None:
        """Return once every refresh that was under way is saved. A person waits for its time limit instead."""
        for lock in self._busy:
            with lock:
                pass

    def write(self, path: Path) -> str:
        """Write its table for `import`, and return the file's name."""
        lines = [
            {
                "realm_id": entry.realm_id,
                "refresh_token": entry.refresh_token,
                "token_obtained_at": entry.token_obtained_at,
                "external_id": entry.external_id,
            }
            for entry in self.entries.values()
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    def load(self, lines: Iterable[str]) -> None:
        """Take tokens that `export --freeze` wrote."""
        for line in map(json.loads, lines):
            entry = self.entries[line["realm_id"]]
            entry.refresh_token, entry.token_obtained_at = line["refresh_token"], line["token_obtained_at"]

    def _run(self, rows: Sequence[Entry], busy: threading.Lock) -> None:
        with psycopg.connect(self._database_url, autocommit=True) as db:
            while not self._ends.is_set():
                for entry in rows:
                    with busy:
                        whose = db.execute(_WHOSE, (entry.external_id,)).fetchone()
                        if whose is None or not whose[0]:
                            self._refresh(entry)
                    if self._ends.is_set():
                        return

    def _refresh(self, entry: Entry) -> None:
        status, answer = self._post({"grant_type": "refresh_token", "refresh_token": entry.refresh_token})
        if status == http.client.OK:
            entry.refresh_token, entry.token_obtained_at = answer["refresh_token"], _now()
            entry.refreshes += 1
        else:
            self.refused.append(entry.external_id)

    def _post(self, form: dict[str, str]) -> tuple[int, Any]:
        at = urlsplit(self._simulator.token_url)
        basic = base64.b64encode(f"{self._simulator.client_id}:{self._simulator.client_secret}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=20)
        try:
            connection.request("POST", at.path, urlencode(form), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def _of(grant: CreatedGrant) -> tuple[str, str]:
    return grant.realm_id, grant.refresh_token
