"""Brings both sides under the same names: the provider's journal and our tables, as one history."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from intuit_simulator import fingerprint
from qbo_refresh.sealing import Field, Unsealable
from qbo_refresh.status import Authorized
from tests.chaos.excuses import kept_within
from tests.chaos.history import Attempt, Call, Consented, Event, History, Put, Row
from tests.chaos.plan import CONFIRM_AFTER_S, LEASE_S
from worker.escrow import RedisEscrow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from typing import Any

    from tests.chaos.nemesis import Nemesis
    from tests.chaos.people import People
    from tests.chaos.stage import Stage

_ATTEMPTS = """
SELECT connection_id, outcome, reason, worker, began_at, exposed_us, token_version, posts, trigger, withheld,
       began_at + make_interval(secs => duration_ms / 1000.0) AS ended_at
FROM qbo.refresh_attempts ORDER BY began_at
"""
_EVENTS = "SELECT id, type, connection_id, sequence, created_at, delivered_at FROM qbo.outbox ORDER BY id"
_CONSENTED = """
SELECT COALESCE(z.connection_id, x.connection_id) AS connection_id, z.id, z.presented_by, z.presented_at,
       z.outcome, z.reason, z.finished_at
FROM qbo.authorizations z LEFT JOIN qbo.external_ids x ON x.external_id = z.external_id
WHERE z.used_at IS NOT NULL ORDER BY z.id
"""
_ROWS = """
SELECT c.id, c.status, c.grant_number, c.refresh_token, extract(epoch FROM now() - c.due_at)::float AS overdue_s,
       ARRAY(SELECT h.reason FROM qbo.sync_holds h WHERE h.connection_id = c.id) AS holds,
       (SELECT count(*) FROM qbo.candidates x WHERE x.connection_id = c.id AND x.grant_number = c.grant_number
        AND x.tried_at IS NULL) AS untried
FROM qbo.connections c ORDER BY c.id
"""
_KNOWN = """
SELECT fingerprint_after AS fingerprint FROM qbo.refresh_attempts WHERE fingerprint_after IS NOT NULL
UNION SELECT fingerprint FROM qbo.candidates
UNION SELECT refresh_token_fingerprint FROM qbo.connections WHERE refresh_token_fingerprint IS NOT NULL
"""

# Beginnings of refresh tokens, access tokens and realm ids of the simulator's.
_IN_CLEAR = re.compile(rb"RT1-\d{3}-H0-|eyJhbGciOiJkaXIi|9130350\d{9}")


def collect(
    stage: Stage,
    nemesis: Nemesis,
    people: People,
    *,
    began: float,
    stopped: float,
    settled_s: float | None,
    restless: tuple[str, ...],
) -> History:
    """Read both sides. Nothing may be under way any more."""
    stage.learn()
    stage.learn_newcomers(people.newcomers)
    consented = stage.db.execute(_CONSENTED).all()
    of = {row.id: row.connection_id for row in consented}
    history = History(
        began=began,
        stopped=stopped,
        deadline_s=LEASE_S / 3,
        lease_s=LEASE_S,
        settled_s=settled_s,
        calls=tuple(_calls(stage)),
        attempts=tuple(_attempts(stage)),
        events=tuple(_events(stage)),
        rows=tuple(_rows(stage)),
        kills=tuple(stage.crew.kills),
        spans=tuple(sorted((*nemesis.spans, *stage.crew.spans), key=lambda span: span.began)),
        revoked=tuple(nemesis.revoked),
        known=_known(stage),
        received=tuple(_received(stage)),
        received_ids=frozenset(json.loads(each)["id"] for each in stage.received()),
        surprises=tuple(people.surprises),
        restless=restless,
        in_clear=tuple(_in_clear(stage)),
        consented=tuple(_consented(stage, row) for row in consented if row.connection_id is not None),
        puts=tuple(_puts(stage, of)),
        confirm_after_s=CONFIRM_AFTER_S,
    )
    return replace(history, kept_within_s=kept_within(history))


def _calls(stage: Stage) -> Iterator[Call]:
    for call in stage.simulator.journal():
        exchange = call.grant_type == "authorization_code"
        yield Call(
            sequence=call.sequence,
            endpoint=call.endpoint if call.endpoint != "token" else ("exchange" if exchange else "refresh"),
            connection_id=stage.ids.get(call.realm_id or ""),
            presented=call.presented,
            issued=call.issued,
            rotated=call.rotated,
            started=call.started,
            ended=call.ended,
            status=call.status,
            error=call.error,
            overlapped=call.overlapped,
            superseded=call.superseded,
            faults=call.faults or "",
            written=call.written,
            punished=call.revoked_by_reuse,
        )


def _attempts(stage: Stage) -> Iterator[Attempt]:
    for row in stage.db.execute(_ATTEMPTS):
        yield Attempt(
            connection_id=row.connection_id,
            outcome=row.outcome,
            reason=row.reason,
            worker=row.worker,
            began=_moment(stage, row.began_at),
            ended=None if row.ended_at is None else _moment(stage, row.ended_at),
            exposed_us=row.exposed_us,
            version=row.token_version,
            posts=row.posts,
            trigger=row.trigger,
            withheld=row.withheld,
        )


def _events(stage: Stage) -> Iterator[Event]:
    for row in stage.db.execute(_EVENTS):
        at = _moment(stage, row.created_at)
        yield Event(row.id, row.type, row.connection_id, row.sequence, at, row.delivered_at is not None)


def _rows(stage: Stage) -> Iterator[Row]:
    states = {stage.ids[each.realm_id]: each for each in stage.simulator.states() if each.realm_id in stage.ids}
    for row in stage.db.execute(_ROWS):
        state = states[row.id]
        yield Row(
            connection_id=row.id,
            status=row.status,
            token=_opened(stage, row.id, row.refresh_token, row.grant_number),
            current=fingerprint(state.refresh_token),
            alive=state.alive,
            overdue_s=row.overdue_s,
            holds=tuple(row.holds),
            untried=row.untried,
        )


def _opened(stage: Stage, connection_id: int, blob: bytes | None, grant_number: int) -> str | None:
    place = stage.fleet.place(connection_id, Field.REFRESH_TOKEN, grant_number=grant_number)
    try:
        return None if blob is None else fingerprint(stage.fleet.keyring.open(bytes(blob), place).reveal())
    except Unsealable:
        return None


def _known(stage: Stage) -> frozenset[str]:
    """Return the provider's names of all tokens that were in a durable place of ours."""
    ours = {bytes(row.fingerprint) for row in stage.db.execute(_KNOWN)}
    ours |= {copy.fingerprint for copy in RedisEscrow(stage.servers.redis_url).everything() if copy is not None}
    return frozenset(theirs for theirs, name in stage.names.items() if name in ours)


def _consented(stage: Stage, row: Any) -> Consented:
    return Consented(
        connection_id=row.connection_id,
        worker=row.presented_by,
        presented=None if row.presented_at is None else _moment(stage, row.presented_at),
        lost=row.outcome == Authorized.LOST,
        finished=None if row.finished_at is None else _moment(stage, row.finished_at),
    )


def _puts(stage: Stage, of: Mapping[int, int | None]) -> Iterator[Put]:
    for at, number, grant_number in stage.puts.seen:
        connection_id = number if grant_number else of.get(number)
        if connection_id is not None:
            yield Put(at, connection_id, "refresh" if grant_number else "exchange")


def _received(stage: Stage) -> Iterator[tuple[int, int]]:
    for each in stage.received():
        event = json.loads(each)
        if event["connection_id"] is not None:
            yield event["connection_id"], event["sequence"]


def _in_clear(stage: Stage) -> Iterator[str]:
    for log in sorted(stage.directory.glob("*.log")):
        if _IN_CLEAR.search(log.read_bytes()):
            yield log.name


def _moment(stage: Stage, when: datetime) -> float:
    return when.timestamp() - stage.offset
