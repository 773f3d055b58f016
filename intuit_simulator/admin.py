"""The admin API under /_simulator/: what a test arranges and observes. JSON in, JSON or JSON lines out."""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

from aiohttp import web

from intuit_simulator import consent, policy
from intuit_simulator.faults import Fault
from intuit_simulator.grants import Grant
from intuit_simulator.journal import summarise
from intuit_simulator.simulation import Simulation

PREFIX: Final = "/_simulator/"
_BATCH: Final = 1000
_MOST_GRANTS: Final = 1_000_000

Handler = Callable[["Ask"], Awaitable[web.StreamResponse]]


class Ask:
    """One admin request, its key already checked."""

    def __init__(self, simulation: Simulation, request: web.BaseRequest, rest: str, body: dict[str, Any]) -> None:
        self.simulation = simulation
        self.request = request
        self.rest = rest
        self.body = body

    def number(self, name: str, default: int | None) -> int | None:
        """Return a whole number of the query."""
        text = self.request.query.get(name)
        return int(text) if text else default

    async def lines(self, rows: Iterable[dict[str, Any]]) -> web.StreamResponse:
        """Answer with JSON lines, letting token calls in between."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(self.request)
        iterator = iter(rows)
        while batch := "".join(json.dumps(row) + "\n" for row in islice(iterator, _BATCH)):
            await response.write(batch.encode())
            await asyncio.sleep(0)
        await response.write_eof()
        return response


async def handle(simulation: Simulation, request: web.BaseRequest, admin_key: str) -> web.StreamResponse:
    """Answer an admin request, or say why not."""
    offered = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(offered.encode(), admin_key.encode()):
        return _problem(401, "the admin key is missing or wrong")
    name, _, rest = request.path.removeprefix(PREFIX).partition("/")
    handler = ROUTES.get((request.method, name))
    if handler is None:
        return _problem(404, f"no such call: {request.method} {request.path}")
    try:
        body = json.loads(await request.content.read() or b"{}")
        if not isinstance(body, dict):
            raise TypeError("the body must be a JSON object")  # noqa: TRY301  # answered below like the others
        return await handler(Ask(simulation, request, rest, body))
    except KeyError as error:
        return _problem(400, f"missing: {error.args[0]}")
    except (ValueError, TypeError) as error:
        return _problem(400, str(error))


async def _status(ask: Ask) -> web.StreamResponse:
    simulation = ask.simulation
    return web.json_response(
        {
            "now": simulation.now(),
            "policy": asdict(simulation.book.policy),
            "clients": simulation.clients.ids(),
            "grants": len(simulation.book),
            "calls": simulation.journal.count,
            "journal": simulation.journal.keeps,
            "in_flight": len(simulation.in_flight),
            "faults": len(simulation.faults.ids()),
            "api_answers": dict(simulation.api_answers),
        }
    )


async def _create_grants(ask: Ask) -> web.StreamResponse:
    body, simulation = ask.body, ask.simulation
    realms = body.get("realm_ids")
    count = len(realms) if realms else int(body.get("count", 1))
    if not 0 < count <= _MOST_GRANTS:
        raise ValueError(f"count must be between 1 and {_MOST_GRANTS}")
    client_id = str(body.get("client_id") or simulation.clients.ids()[0])
    ages = {name: float(body[name]) for name in ("granted_ago", "issued_ago") if name in body}

    def create(realm_id: str) -> dict[str, Any]:
        grant = simulation.book.create(realm_id, client_id, simulation.now(), **ages)
        created = {"realm_id": realm_id, "refresh_token": grant.current.value, "client_id": client_id}
        if body.get("access_tokens"):
            issued = simulation.book.issue_access(grant, simulation.now(), rotated=False)
            created["access_token"] = issued.access_token
        return created

    names = map(str, realms) if realms else (simulation.book.free_realm() for _ in range(count))
    return await ask.lines(map(create, names))


async def _grants(ask: Ask) -> web.StreamResponse:
    simulation = ask.simulation
    now = simulation.now()
    if ask.rest:
        return web.json_response(_known(ask, ask.rest).state(simulation.book.policy, now).as_json())
    rows = (grant.state(simulation.book.policy, now).as_json() for grant in simulation.book.grants())
    return await ask.lines(rows)


async def _revoke(ask: Ask) -> web.StreamResponse:
    grants = [_known(ask, str(realm_id)) for realm_id in ask.body["realm_ids"]]
    for grant in grants:
        grant.ended = grant.ended or str(ask.body.get("reason", "revoked by the user"))
    return web.json_response({"revoked": len(grants)})


async def _create_code(ask: Ask) -> web.StreamResponse:
    body, simulation = ask.body, ask.simulation
    if not consent.is_loopback(body["redirect_uri"]):
        raise ValueError("redirect_uri must be on the loopback interface")
    realm_id = str(body.get("realm_id") or simulation.book.free_realm())
    client_id = str(body.get("client_id") or simulation.clients.ids()[0])
    code = simulation.book.create_code(client_id, realm_id, body["redirect_uri"], simulation.now())
    return web.json_response({"code": code, "realm_id": realm_id})


async def _set_policy(ask: Ask) -> web.StreamResponse:
    settings = dict(ask.body)
    ask.simulation.book.policy = policy.make(settings.pop("name"), **settings)
    return web.json_response(asdict(ask.simulation.book.policy))


async def _set_time(ask: Ask) -> web.StreamResponse:
    simulation, body = ask.simulation, ask.body
    if "advance" in body:
        simulation.offset += float(body["advance"])
    else:
        simulation.set_time(float(body["now"]))
    return web.json_response({"now": simulation.now()})


async def _set_clients(ask: Ask) -> web.StreamResponse:
    for client_id, secrets in ask.body.items():
        if not isinstance(secrets, list):
            raise TypeError("give each client id a list of its valid secrets")
        ask.simulation.clients.set_secrets(client_id, map(str, secrets))
    return web.json_response({"clients": ask.simulation.clients.ids()})


async def _add_fault(ask: Ask) -> web.StreamResponse:
    fault = ask.simulation.add_fault(Fault.parse(ask.body))
    return web.json_response(fault.as_json())


async def _list_faults(ask: Ask) -> web.StreamResponse:
    now = time.monotonic()
    rows = [
        {**armed.fault.as_json(), "applied": armed.applied, "expired": now >= armed.until}
        for armed in ask.simulation.faults
    ]
    return await ask.lines(rows)


async def _lift_faults(ask: Ask) -> web.StreamResponse:
    if not ask.rest:
        return web.json_response({"lifted": ask.simulation.lift_all_faults()})
    if not ask.simulation.lift_fault(ask.rest):
        return _problem(404, f"no fault {ask.rest}")
    return web.json_response({"lifted": 1})


async def _journal(ask: Ask) -> web.StreamResponse:
    calls = ask.simulation.journal.read(ask.number("after", 0) or 0, ask.number("limit", None))
    return await ask.lines(call._asdict() for call in calls)


async def _check(ask: Ask) -> web.StreamResponse:
    if not ask.simulation.journal.keeps:
        raise ValueError("the journal is switched off: there is nothing to check")
    calls = ask.simulation.journal.read(ask.number("after", 0) or 0)
    return web.json_response(asdict(summarise(calls)))


async def _switch_journal(ask: Ask) -> web.StreamResponse:
    keeps = ask.body["keeps"]
    if not isinstance(keeps, bool):
        raise TypeError("keeps must be true or false")
    ask.simulation.empty_journal(keeps=keeps)
    return web.json_response({"keeps": keeps})


async def _in_flight(ask: Ask) -> web.StreamResponse:
    return await ask.lines([asdict(call) for call in ask.simulation.in_flight.values()])


async def _reset(ask: Ask) -> web.StreamResponse:
    ask.simulation.reset()
    return web.json_response({})


def _known(ask: Ask, realm_id: str) -> Grant:
    grant = ask.simulation.book.newest(realm_id)
    if grant is None:
        raise ValueError(f"no grant for realm {realm_id}")
    return grant


def _problem(status: int, sentence: str) -> web.Response:
    return web.json_response({"problem": sentence}, status=status)


ROUTES: Final[dict[tuple[str, str], Handler]] = {
    ("GET", "status"): _status,
    ("POST", "grants"): _create_grants,
    ("GET", "grants"): _grants,
    ("POST", "revoke"): _revoke,
    ("POST", "codes"): _create_code,
    ("PUT", "policy"): _set_policy,
    ("PUT", "time"): _set_time,
    ("PUT", "clients"): _set_clients,
    ("POST", "faults"): _add_fault,
    ("GET", "faults"): _list_faults,
    ("DELETE", "faults"): _lift_faults,
    ("GET", "journal"): _journal,
    ("PUT", "journal"): _switch_journal,
    ("GET", "check"): _check,
    ("GET", "in-flight"): _in_flight,
    ("POST", "reset"): _reset,
}
