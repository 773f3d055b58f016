"""The least of the QuickBooks API: whose company an access token is for. Not in the journal: no token is spent."""

from typing import Any, Final

from aiohttp import web

from intuit_simulator.simulation import Simulation

PREFIX: Final = "/v3/company/"


def info(simulation: Simulation, request: web.BaseRequest) -> web.Response:
    """Answer GET /v3/company/{realm}/companyinfo/{realm} as QuickBooks does, for a living grant's latest token."""
    realm_id, _, rest = request.path.removeprefix(PREFIX).partition("/")
    if rest != f"companyinfo/{realm_id}":
        return web.json_response({"error": "not_found"}, status=404)
    grant = simulation.book.owner(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if grant is None or grant.why_over(simulation.book.policy, simulation.now()):
        return _fault(401, "3200", "message=AuthenticationFailed; errorCode=003200; statusCode=401")
    if grant.realm_id != realm_id:
        return _fault(403, "3100", "message=ApplicationAuthorizationFailed; errorCode=003100; statusCode=403")
    return web.json_response({"CompanyInfo": {"Id": "1", "CompanyName": f"Company {realm_id[-4:]}"}})


def _fault(status: int, code: str, message: str) -> web.Response:
    fault: dict[str, Any] = {"Error": [{"Message": message, "code": code}], "type": "AUTHENTICATION"}
    return web.json_response({"Fault": fault}, status=status)
