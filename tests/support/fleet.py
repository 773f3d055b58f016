"""Connections as an import makes them: a grant at the simulator and the sealed row that belongs to it.

It needs a database, the keys and a simulator, and no fixture: system tests may use it for their own processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

from qbo_refresh.sealing import Field, Place, realm_place
from qbo_refresh.secret import Secret
from worker.store import apps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from intuit_simulator import GrantState, Simulator
    from worker.database import Database
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Connected:
    """One connection of a test."""

    id: int
    realm_id: str
    refresh_token: str = field(repr=False)
    app_id: int


_INSERT = """
INSERT INTO qbo.connections (id, app_id, realm_id, realm_hash, refresh_token, refresh_token_fingerprint,
                             next_refresh_at, label)
VALUES (%(id)s, %(app)s, %(realm_id)s, %(realm_hash)s, %(refresh_token)s, %(fingerprint)s, now(), %(label)s)
"""
_MOMENTS = {
    "connections": [
        "token_obtained_at",
        "access_expires_at",
        "refresh_expires_at",
        "hard_expires_at",
        "leased_until",
        "attempt_began_at",
        "next_refresh_at",
        "not_before",
        "queued_until",
        "suspect_since",
        "needs_reauth_since",
        "second_writer_at",
        "last_refreshed_at",
    ],
    "apps": ["throttled_until", "swept_at", "stalled_since", "guard_tripped_at", "guard_released_at", "population_at"],
    "app_blocks": ["blocked_at", "probe_at"],
    "unreadable_keys": ["since", "met_at"],
    "control": ["epoch_since", "thawed_at"],
    "refresh_attempts": ["began_at"],
    "candidates": ["received_at", "tried_at", "refused_again_at", "settled_at"],
    "authorizations": [
        "created_at",
        "expires_at",
        "used_at",
        "leased_until",
        "presented_at",
        "not_before",
        "finished_at",
    ],
    "revocations": ["created_at", "leased_until", "not_before"],
    "outbox": ["created_at", "delivered_at", "resent_at"],
    "event_delivery": ["leased_until", "not_before"],
}


class Fleet:
    """Makes connections, looks at them, and lets time pass for all of them."""

    def __init__(self, db: Database, settings: Settings, simulator: Simulator) -> None:
        self.db = db
        self.simulator = simulator
        self.keyring = settings.keyring()
        self.lookup = settings.lookup()
        self.app = settings.apps()[0]

    def connect(self, count: int = 1, *, label: str | None = None, granted_ago: float = 0) -> list[Connected]:
        """Make so many active connections that are due now, consented to so many seconds ago."""
        app_id = apps.ensure(self.db, environment=self.app.environment, client_id=self.app.client_id)
        ids = self.db.execute(
            "SELECT nextval(pg_get_serial_sequence('qbo.connections', 'id')) AS id FROM generate_series(1, %(n)s)",
            {"n": count},
        ).all()
        grants = self.simulator.create_grants(count, client_id=self.app.client_id, granted_ago=granted_ago)
        made = [
            Connected(row.id, grant.realm_id, grant.refresh_token, app_id)
            for row, grant in zip(ids, grants, strict=True)
        ]
        for each in made:
            self._insert(each, label)
        return made

    def witness(self) -> Connected:
        """Make another connection of the app that was refreshed just now: Intuit does not refuse everybody."""
        (made,) = self.connect()
        self.update(
            made.id,
            "attempt_began_at = now(), last_refreshed_at = now(), next_refresh_at = now() + interval '1 day'",
        )
        return made

    def _insert(self, made: Connected, label: str | None) -> None:
        self.db.execute(
            _INSERT,
            {
                "id": made.id,
                "app": made.app_id,
                "realm_id": self.keyring.seal(Secret(made.realm_id), realm_place(self.app.environment, made.id)),
                "realm_hash": self.lookup.realm_hash(Secret(made.realm_id)),
                "refresh_token": self.seal(made.id, made.refresh_token),
                "fingerprint": self.fingerprint(made.refresh_token),
                "label": label,
            },
        )

    def place(self, connection_id: int, kind: Field = Field.REFRESH_TOKEN, *, grant_number: int = 1) -> Place:
        """Return where a connection's blob belongs."""
        return Place(self.app.environment, connection_id, grant_number, kind)

    def seal(self, connection_id: int, refresh_token: str, *, grant_number: int = 1) -> bytes:
        """Seal a refresh token for a connection."""
        return self.keyring.seal(Secret(refresh_token), self.place(connection_id, grant_number=grant_number))

    def fingerprint(self, refresh_token: str) -> bytes:
        """Return the hash by which the tables recognise a refresh token."""
        return self.lookup.fingerprint(Secret(refresh_token))

    def row(self, connection_id: int) -> Any:
        """Return the connection's row as it is now, with `is_leased`, `wait` (until not_before) and `due_in`."""
        return self.db.execute(
            "SELECT *, lease_id IS NOT NULL AND leased_until > now() AS is_leased, not_before - now() AS wait,"
            " next_refresh_at - now() AS due_in FROM qbo.connections WHERE id = %(id)s",
            {"id": connection_id},
        ).one()

    def update(self, connection_id: int | None, assignments: str, **values: Any) -> None:
        """Change a connection's row, or all rows, by hand."""
        self.db.execute(
            f"UPDATE qbo.connections SET {assignments} WHERE id = %(id)s OR %(id)s::bigint IS NULL",  # noqa: S608  # a test's own text
            {"id": connection_id, **values},
        )

    def token(self, connection_id: int) -> str:
        """Return the refresh token that the row holds, in clear."""
        row = self.row(connection_id)
        return self.keyring.open(row.refresh_token, self.place(connection_id, grant_number=row.grant_number)).reveal()

    def state(self, connected: Connected) -> GrantState:
        """Return what the simulator knows of the grant."""
        return self.simulator.state(connected.realm_id)

    def holds_the_live_token(self, connected: Connected) -> bool:
        """Tell whether the grant lives and the row holds its current token."""
        state = self.state(connected)
        return state.alive and self.token(connected.id) == state.refresh_token

    def rotated_elsewhere(self, refresh_token: str) -> str:
        """Refresh at Intuit without the worker, as an old system does, or one that dies; return the new token."""
        answer = requests.post(
            self.simulator.token_url,
            data={"grant_type": "refresh_token", "refresh_token": refresh_token},
            auth=(self.simulator.client_id, self.simulator.client_secret),
            timeout=10,
        )
        return str(answer.json()["refresh_token"])

    def attempts(self, connection_id: int) -> Sequence[Any]:
        """Return the connection's ledger, oldest first."""
        return self.db.execute(
            "SELECT * FROM qbo.refresh_attempts WHERE connection_id = %(id)s ORDER BY began_at, attempt_id",
            {"id": connection_id},
        ).all()

    def outcomes(self, connection_id: int) -> list[tuple[str, str | None]]:
        """Return outcome and reason of each attempt, oldest first."""
        return [(row.outcome, row.reason) for row in self.attempts(connection_id)]

    def events(self, connection_id: int | None = None) -> list[str]:
        """Return the types of a connection's events, or of those about no connection, oldest first."""
        rows = self.db.execute(
            "SELECT type FROM qbo.outbox WHERE connection_id IS NOT DISTINCT FROM %(id)s::bigint ORDER BY id",
            {"id": connection_id},
        )
        return [row.type for row in rows]

    def payloads(self, connection_id: int, event: str) -> list[dict[str, Any]]:
        """Return the payloads of a connection's events of one type, oldest first."""
        rows = self.db.execute(
            "SELECT payload FROM qbo.outbox WHERE connection_id = %(id)s AND type = %(type)s ORDER BY id",
            {"id": connection_id, "type": event},
        )
        return [row.payload for row in rows]

    def holds(self, connection_id: int) -> set[str]:
        """Return the reasons that pause a connection's syncs."""
        rows = self.db.execute("SELECT reason FROM qbo.sync_holds WHERE connection_id = %(id)s", {"id": connection_id})
        return {row.reason for row in rows}

    def candidates(self, connection_id: int) -> Sequence[Any]:
        """Return a connection's candidates, oldest first."""
        return self.db.execute(
            "SELECT * FROM qbo.candidates WHERE connection_id = %(id)s ORDER BY id", {"id": connection_id}
        ).all()

    def let_pass(self, time: timedelta, *, at_intuit: bool = False) -> None:
        """Let time pass: every moment in the tables moves into the past by so much."""
        for table, columns in _MOMENTS.items():
            moved = ", ".join(f"{column} = {column} - %(time)s::interval" for column in columns)
            self.db.execute(f"UPDATE qbo.{table} SET {moved}", {"time": time})  # noqa: S608  # constants
        if at_intuit:
            self.simulator.advance(time.total_seconds())

    def statuses(self, connected: Iterable[Connected]) -> dict[str, int]:
        """Return how many of these connections have each status."""
        rows = self.db.execute(
            "SELECT status, count(*) AS n FROM qbo.connections WHERE id = ANY (%(ids)s::bigint[]) GROUP BY status",
            {"ids": [each.id for each in connected]},
        )
        return {row.status: row.n for row in rows}
