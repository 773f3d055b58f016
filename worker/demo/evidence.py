"""What is known at the end, from both sides: our tables and Intuit's books, brought under the same connection ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intuit_simulator import fingerprint
from qbo_refresh.sealing import Field, Place, Unsealable
from qbo_refresh.secret import Secret
from qbo_refresh.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from worker.demo.scenes import Kill, Story
    from worker.demo.stage import Stage

NOBODY = 0
"""Stands for the connection of a call whose token Intuit does not know."""

_CONNECTIONS = """
SELECT c.id, c.realm_hash, a.environment, c.grant_number, c.status, c.refresh_token,
       ARRAY(SELECT h.reason FROM qbo.sync_holds h WHERE h.connection_id = c.id) AS holds,
       (SELECT count(*) FROM qbo.outbox o
        WHERE o.connection_id = c.id AND o.type = 'connection.needs_reauth') AS verdicts
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id
"""
_ATTEMPTS = """
SELECT connection_id, outcome, reason, worker, posts, exposed_us,
       began_at + make_interval(secs => duration_ms / 1000.0) AS ended_at
FROM qbo.refresh_attempts
"""
_OPERATORS = "SELECT type FROM qbo.outbox WHERE connection_id IS NULL ORDER BY id"
# Parts of what must not be found anywhere, quick to look for, and what they are parts of.
_IN_CLEAR = {b"RT1-": rb"RT1-\d{3}-H0-", b"eyJhbGciOiJkaXIi": rb"eyJhbGciOiJkaXIi", b"9130350": rb"9130350\d{9}"}


@dataclass(frozen=True, slots=True)
class Row:
    """A connection in our database, and its grant at Intuit.

    Attributes:
        token: Fingerprint of the refresh token in the row; None if the blob does not open.
        current: Fingerprint of the one that Intuit holds as current.
        verdicts: How often the host was told that somebody must reconnect.
    """

    connection_id: int
    status: Status
    token: str | None
    current: str
    is_revoked: bool
    holds: frozenset[str] = frozenset()
    verdicts: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A line of our ledger. One that was abandoned knows neither its posts nor its end."""

    connection_id: int
    outcome: str
    reason: str | None
    worker: str | None
    posts: int | None
    exposed_us: int | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Call:
    """A line of Intuit's journal; times by one monotonic clock.

    Attributes:
        is_outage: It met the outage.
        is_refusal: It met `invalid_grant` to everybody.
        was_superseded: The token had been replaced before.
    """

    connection_id: int
    presented: str
    started: float
    ended: float
    was_superseded: bool = False
    is_outage: bool = False
    is_refusal: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the report is about.

    Attributes:
        operators: What operators were told, in order.
        died: Processes that ended without being asked to.
        in_clear: Files in which a token, a realm id or a secret was found in clear; None if nobody looked.
        took_s: From the start of beat to the end.
    """

    rows: tuple[Row, ...]
    attempts: tuple[Attempt, ...]
    calls: tuple[Call, ...]
    kill: Kill | None
    is_over: bool
    died: tuple[str, ...]
    in_clear: tuple[str, ...]
    workers: Mapping[str, str]
    outage_s: float | None
    took_s: float
    operators: tuple[str, ...] = ()
    secret_s: float | None = None
    refusals_s: float | None = None


def collect(stage: Stage, story: Story, *, took_s: float) -> Evidence:
    """Read both sides. Nothing may be under way any more."""
    states = {state.realm_id: state for state in stage.simulator.states()}
    by_hash = {stage.lookup.realm_hash(Secret(realm_id)): state for realm_id, state in states.items()}
    found = list(stage.db.execute(_CONNECTIONS))
    ids = {by_hash[bytes(row.realm_hash)].realm_id: row.id for row in found}
    rows = []
    for row in found:
        place = Place(row.environment, row.id, row.grant_number, Field.REFRESH_TOKEN)
        state = by_hash[bytes(row.realm_hash)]
        rows.append(
            Row(
                connection_id=row.id,
                status=Status(row.status),
                token=_open(stage, bytes(row.refresh_token or b""), place),
                current=fingerprint(state.refresh_token),
                is_revoked=state.realm_id in story.revoked,
                holds=frozenset(row.holds),
                verdicts=row.verdicts,
            )
        )
    return Evidence(
        rows=tuple(rows),
        attempts=tuple(Attempt(**attempt) for attempt in stage.db.execute(_ATTEMPTS).mappings()),
        calls=tuple(_calls(stage, ids)),
        kill=story.kill,
        is_over=story.is_over,
        died=stage.children.ended(),
        in_clear=tuple(_in_clear(stage)),
        workers=dict(story.workers),
        outage_s=story.outage_s,
        took_s=took_s,
        operators=tuple(row.type for row in stage.db.execute(_OPERATORS)),
        secret_s=story.secret_s,
        refusals_s=story.refusals_s,
    )


def _open(stage: Stage, blob: bytes, place: Place) -> str | None:
    try:
        return fingerprint(stage.keyring.open(blob, place).reveal())
    except Unsealable:
        return None


def _calls(stage: Stage, ids: Mapping[str, int]) -> Iterable[Call]:
    for call in stage.simulator.journal():
        yield Call(
            connection_id=ids.get(call.realm_id or "", NOBODY),
            presented=call.presented or "",
            started=call.started,
            ended=call.ended,
            was_superseded=call.superseded,
            is_outage="outage" in (call.faults or ""),
            is_refusal="refusals" in (call.faults or ""),
        )


def _in_clear(stage: Stage) -> Iterable[str]:
    """Yield the files, of logs, Valkey and PostgreSQL, in which something lies open that should be sealed."""
    stage.db.execute("CHECKPOINT")
    secrets = [stage.settings["INTUIT_CLIENT_SECRET"].encode(), stage.settings["TOKEN_KEYS"].partition(":")[2].encode()]
    servers = [path for path in stage.servers.directory.iterdir() if path != stage.directory]
    for place in (stage.children.logs, *servers):
        for file in (place, *place.rglob("*")):
            if file.is_file() and _shows(file, secrets):
                yield str(file.relative_to(stage.servers.directory))


def _shows(file: Path, secrets: Iterable[bytes]) -> bool:
    try:
        content = file.read_bytes()
    except OSError:  # PostgreSQL has just removed it
        return False
    patterns = [whole for part, whole in _IN_CLEAR.items() if part in content]
    return any(secret in content for secret in secrets) or any(re.search(whole, content) for whole in patterns)
