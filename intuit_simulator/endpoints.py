"""The token and revoke endpoints: one call from its first byte to the last of the answer."""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from intuit_simulator import messages, tokens
from intuit_simulator.armed import Hit
from intuit_simulator.book import Issued, Refusal
from intuit_simulator.clients import Presented, parse_basic
from intuit_simulator.faults import Fault, Kind
from intuit_simulator.grants import Token
from intuit_simulator.journal import Call
from intuit_simulator.messages import Reply
from intuit_simulator.simulation import OpenCall, Simulation
from intuit_simulator.wire import Wire, deliver

TOKEN: Final = "token"  # noqa: S105  # the endpoint's name
REVOKE: Final = "revoke"

BAD_CLIENT: Final = Refusal(401, "invalid_client")
MALFORMED: Final = Refusal(400, "invalid_request", "The request is missing a required parameter or is malformed")
UNSUPPORTED: Final = Refusal(400, "unsupported_grant_type", "The grant type is not supported")


@dataclass(slots=True)
class Visit:
    """What one request says, and what has become of it so far."""

    endpoint: str
    started: float
    form: dict[str, str] | None
    client: Presented | None
    tells_hard_expiry: bool
    token: Token | None = None
    realm_id: str | None = None
    overlaps: bool = False
    superseded: bool = False
    revoked_by_reuse: bool = False
    issued: Issued | None = field(default=None, repr=False)

    @property
    def presented(self) -> str | None:
        """The token or code that was sent."""
        form = self.form or {}
        return form.get("refresh_token") or form.get("token") or form.get("code")


class Written(web.StreamResponse):
    """Tells aiohttp that the answer has been written already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keeps = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open."""
        return self._keeps

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing."""


async def serve(simulation: Simulation, request: web.BaseRequest, wire: Wire, endpoint: str) -> web.StreamResponse:
    """Answer one call and enter it in the journal."""
    started = wire.first_byte_at()
    try:
        visit = _read(simulation, endpoint, started, request, await request.read())
    except (ConnectionError, web.RequestPayloadError):
        return CLOSED  # The client left within its request; there is no token to account for.
    hit = simulation.faults.match(endpoint, visit.realm_id, time.monotonic())
    token, journal = visit.token, simulation.journal
    if token:
        visit.overlaps = token.begin_call(started)
        visit.superseded = token.superseded_at is not None
    simulation.in_flight[id(visit)] = OpenCall(endpoint, started, visit.realm_id, _fingerprint(visit), hit.labels)
    reply, written = None, False
    try:
        reply = await _reply(simulation, visit, wire, hit)
        if reply:
            head = reply.head(simulation.now(), keep_alive=request.keep_alive)
            if hit.delivery:
                written = await deliver(request, wire, head, reply.body, hit.delivery)
            else:
                written = wire.write(head + reply.body)
        else:
            wire.end(reset=bool(hit.answer and hit.answer.reset))
    finally:
        ended = time.monotonic()
        if token:
            token.end_call(ended)
        del simulation.in_flight[id(visit)]
        journal.append(_entry(journal.count + 1, visit, reply, hit, ended, written=written))
    return KEPT if request.keep_alive and not wire.is_gone() else CLOSED


def _read(simulation: Simulation, endpoint: str, started: float, request: web.BaseRequest, body: bytes) -> Visit:
    headers = request.headers
    content_type = headers.get("Content-Type", "")
    if endpoint == REVOKE and content_type.lower().startswith("application/json"):
        form = _parse_json(body)
    else:
        form = messages.parse_form(content_type, body)
    visit = Visit(
        endpoint=endpoint,
        started=started,
        form=form if request.method == "POST" else None,
        client=parse_basic(headers.get("Authorization")),
        tells_hard_expiry=headers.get(messages.HARD_EXPIRY_HEADER, "").lower() == "true",
    )
    visit.token = simulation.book.find(visit.presented or "")
    if visit.token:
        visit.realm_id = visit.token.grant.realm_id
    elif visit.presented:
        owner = simulation.book.code(visit.presented) or simulation.book.owner(visit.presented)
        visit.realm_id = owner.realm_id if owner else None
    return visit


def _parse_json(body: bytes) -> dict[str, str] | None:
    try:
        decoded = json.loads(body)
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) and isinstance(decoded.get("token"), str) else None


async def _reply(simulation: Simulation, visit: Visit, wire: Wire, hit: Hit) -> Reply | None:
    """Return the answer, or None if there is to be none."""
    delay, fault = hit.delay, hit.answer
    if delay and not delay.rotate:
        stayed = await _hold(simulation, wire, delay)
        if not stayed and delay.if_gone == "drop":
            return None
    replaced = fault is not None and fault.kind is not Kind.OVERRIDE
    answer = _process(simulation, visit) if not (fault and replaced) or fault.rotate else None
    if delay and delay.rotate:
        await _hold(simulation, wire, delay)
    if fault and replaced:
        return None if fault.kind is Kind.DROP else messages.faulty(fault)
    if isinstance(answer, Refusal):
        return messages.refusal(answer)
    if fault and answer:
        answer = messages.overridden(answer, fault)
    return Reply(200, messages.encode(answer) if answer else b"")


async def _hold(simulation: Simulation, wire: Wire, delay: Fault) -> bool:
    """Wait as long as the fault says; return whether the client is still there."""
    drops = delay.if_gone == "drop"
    if delay.kind is Kind.LATENCY:
        return await wire.wait(delay.delay, minds_client=drops)
    seconds = simulation.faults.seconds_left(delay.id, time.monotonic())
    return await wire.wait(seconds, simulation.release_of(delay.id), minds_client=drops)


def _process(simulation: Simulation, visit: Visit) -> dict[str, Any] | Refusal | None:
    """Change the state; return the fields of a good answer, None for a good one without a body."""
    if not simulation.clients.accept(visit.client):
        return BAD_CLIENT
    if visit.form is None or visit.client is None:
        return MALFORMED
    if visit.endpoint == REVOKE:
        return simulation.book.revoke(visit.presented, visit.client.client_id) if visit.presented else MALFORMED
    outcome = _grant(simulation, visit, visit.form, visit.client.client_id)
    if isinstance(outcome, Refusal):
        return outcome
    visit.issued = outcome
    return messages.success(outcome, tells_hard_expiry=visit.tells_hard_expiry)


def _grant(simulation: Simulation, visit: Visit, form: dict[str, str], client_id: str) -> Issued | Refusal:
    now = simulation.now()
    match form:
        case {"grant_type": "refresh_token", "refresh_token": value} if value:
            return _refresh(simulation, visit, client_id, now)
        case {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri} if code:
            return simulation.book.exchange(code, client_id, redirect_uri, now)
        case {"grant_type": "refresh_token" | "authorization_code" | ""}:
            return MALFORMED
        case {"grant_type": _}:
            return UNSUPPORTED
    return MALFORMED


def _refresh(simulation: Simulation, visit: Visit, client_id: str, now: float) -> Issued | Refusal:
    token = visit.token
    was_alive = token is not None and token.grant.ended is None
    outcome = simulation.book.refresh(token, client_id, now, overlaps=visit.overlaps)
    visit.revoked_by_reuse = was_alive and token is not None and token.grant.ended is not None
    return outcome


def _fingerprint(visit: Visit) -> str | None:
    if visit.token:
        return visit.token.fingerprint
    return tokens.fingerprint(visit.presented) if visit.presented else None


def _entry(sequence: int, visit: Visit, reply: Reply | None, hit: Hit, ended: float, *, written: bool) -> Call:
    client, issued = visit.client, visit.issued
    return Call(
        sequence=sequence,
        endpoint=visit.endpoint,
        started=visit.started,
        ended=ended,
        realm_id=visit.realm_id,
        presented=_fingerprint(visit),
        grant_type=visit.form.get("grant_type") if visit.form and visit.endpoint == TOKEN else None,
        client_id=client.client_id if client else None,
        secret=tokens.fingerprint(client.secret) if client else None,
        status=reply.status if reply else None,
        error=reply.error if reply else None,
        rotated=bool(issued and issued.rotated),
        issued=issued.token.fingerprint if issued else None,
        overlapped=visit.overlaps,
        superseded=visit.superseded,
        revoked_by_reuse=visit.revoked_by_reuse,
        faults=hit.labels,
        written=written,
    )


KEPT: Final = Written(keep_alive=True)
CLOSED: Final = Written(keep_alive=False)
