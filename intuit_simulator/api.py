"""A little of QuickBooks' accounting API: enough for a sync to call, and to hear that its access token is dead."""

import re
import time
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from intuit_simulator import messages
from intuit_simulator.grants import Grant
from intuit_simulator.messages import Reply
from intuit_simulator.simulation import Simulation

PREFIX: Final = "/v3/company/"
_NAMES: Final = {"Customer": "DisplayName", "Vendor": "DisplayName", "Item": "Name", "Account": "Name"}
_AMOUNTS: Final = ("Invoice", "Bill", "Payment")
_ROWS: Final = 3
_SELECT: Final = re.compile(r"\s*select\s+(?P<what>.+?)\s+from\s+(?P<entity>\w+)\b", re.IGNORECASE | re.DOTALL)
_COUNT: Final = re.compile(r"count\s*\(\s*\*\s*\)", re.IGNORECASE)


def answer(simulation: Simulation, request: web.BaseRequest) -> web.Response:
    """Answer GET /v3/company/{realmId}/companyinfo/{realmId} and /query, and count the answer's status."""
    reply = _reply(simulation, request)
    simulation.api_answers[str(reply.status)] += 1
    return web.Response(
        status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type, **dict(reply.headers)}
    )


def _reply(simulation: Simulation, request: web.BaseRequest) -> Reply:
    realm_id, _, call = request.path.removeprefix(PREFIX).partition("/")
    grant = _grant(simulation, request.headers.get("Authorization", ""))
    if grant is None:
        return _fault(401, "AuthenticationFailed", "3200", "AUTHENTICATION", "Token expired or unknown")
    if grant.realm_id != realm_id:
        return _fault(403, "ApplicationAuthorizationFailed", "3100", "SERVICE")
    if request.method == "GET" and call == f"companyinfo/{realm_id}":
        return _good({"CompanyInfo": _company(grant)})
    if request.method == "GET" and call == "query":
        return _query(request.query.get("query", ""), realm_id)
    return _invalid("Unsupported Operation", f"The simulator does not answer {request.method} {call}", "500")


def _grant(simulation: Simulation, authorization: str) -> Grant | None:
    """Return the grant of a living access token, None if it is dead or unknown."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    return simulation.book.accepts(value.strip(), simulation.now())


def _company(grant: Grant) -> dict[str, Any]:
    name = f"Company {grant.realm_id}"
    began = _iso(grant.granted_at)
    return {
        "CompanyName": name,
        "LegalName": name,
        "Country": "US",
        "CompanyStartDate": began[:10],
        "domain": "QBO",
        "sparse": False,
        "Id": "1",
        "SyncToken": "0",
        "MetaData": {"CreateTime": began, "LastUpdatedTime": began},
    }


def _query(text: str, realm_id: str) -> Reply:
    found = _SELECT.match(text)
    if found is None:
        return _invalid("Error parsing query", "QueryParserError: select … from … expected", "4000")
    entity = next((name for name in (*_NAMES, *_AMOUNTS) if name.lower() == found["entity"].lower()), None)
    if entity is None:
        return _good({"QueryResponse": {}})
    if _COUNT.fullmatch(found["what"]):
        return _good({"QueryResponse": {"totalCount": _ROWS}})
    rows = [_row(entity, number, realm_id) for number in range(1, _ROWS + 1)]
    return _good({"QueryResponse": {entity: rows, "startPosition": 1, "maxResults": _ROWS}})


def _row(entity: str, number: int, realm_id: str) -> dict[str, Any]:
    row: dict[str, Any] = {"Id": str(number), "SyncToken": "0", "domain": "QBO", "sparse": False}
    if entity in _NAMES:
        return {**row, _NAMES[entity]: f"{entity} {number} of {realm_id}", "Active": True}
    return {**row, "DocNumber": f"{1000 + number}", "TotalAmt": 100.0 * number}


def _good(body: dict[str, Any]) -> Reply:
    return Reply(200, messages.encode({**body, "time": _iso(time.time())}))


def _fault(status: int, what: str, code: str, kind: str, detail: str | None = None) -> Reply:
    """Return a refusal as Intuit's gateway writes it: with small letters, and null for all that is not so."""
    error = {"message": f"message={what}; errorCode={code:0>6}; statusCode={status}", "detail": detail, "code": code}
    body: dict[str, Any] = {
        "warnings": None,
        "intuitObject": None,
        "fault": {"error": [{**error, "element": None}], "type": kind},
        "report": None,
        "queryResponse": None,
        "batchItemResponse": [],
        "attachableResponse": [],
        "syncErrorResponse": None,
        "requestId": None,
        "time": int(time.time() * 1000),
        "status": None,
        "cdcresponse": [],
    }
    return Reply(status, messages.encode(body), error=code)


def _invalid(message: str, detail: str, code: str) -> Reply:
    """Return a refusal as the service behind the gateway writes it: with capitals."""
    fault = {"Error": [{"Message": message, "Detail": detail, "code": code}], "type": "ValidationFault"}
    return Reply(400, messages.encode({"Fault": fault, "time": _iso(time.time())}), error=code)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
