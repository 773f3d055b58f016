"""The page on which a user allows or denies an app access to a company."""

from html import escape
from itertools import islice
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from aiohttp import web

from intuit_simulator.simulation import Simulation

_LOOPBACK: Final = {"127.0.0.1", "localhost", "::1"}
_SHOWN_COMPANIES: Final = 20
_CARRIED: Final = ("client_id", "redirect_uri", "scope", "state")

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
body, fieldset { overflow-wrap: anywhere } fieldset { margin: 0 0 1rem; min-width: 0 } label { line-height: 2 }
button { font: inherit; padding: .25rem 1rem }
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simulated Intuit consent</title><style>{style}</style></head>
<body><h1>Simulated Intuit</h1>
<p>The app <b>{client_id}</b> asks for <b>{scope}</b>. No real company is involved.</p>
<form method="post">
{hidden}
<fieldset><legend>Company</legend>
{companies}
</fieldset>
<button name="decision" value="allow">Allow</button>
<button name="decision" value="deny">Deny</button>
</form></body></html>
"""


def show(simulation: Simulation, request: web.BaseRequest) -> web.Response:
    """Answer GET /connect/oauth2."""
    query = dict(request.query)
    wrong = _mistake(simulation, query)
    if wrong is None and query.get("response_type") != "code":
        wrong = "response_type must be code"
    if wrong is None and not query.get("scope"):
        wrong = "scope is missing"
    if wrong:
        return web.Response(status=400, text=wrong)
    hidden = "\n".join(
        f'<input type="hidden" name="{name}" value="{escape(query.get(name, ""))}">' for name in _CARRIED
    )
    page = _PAGE.format(
        style=_STYLE,
        client_id=escape(query["client_id"]),
        scope=escape(query["scope"]),
        hidden=hidden,
        companies="\n".join(_companies(simulation)),
    )
    return web.Response(text=page, content_type="text/html")


async def decide(simulation: Simulation, request: web.BaseRequest) -> web.Response:
    """Answer the form: redirect with a code, the state and the realmId, or with access_denied."""
    form = dict(parse_qsl((await request.read()).decode("utf-8", "replace"), keep_blank_values=True))
    wrong = _mistake(simulation, form)
    if wrong is None and form.get("decision") not in {"allow", "deny"}:
        wrong = "decision must be allow or deny"
    if wrong:
        return web.Response(status=400, text=wrong)
    answer = {"state": form.get("state", "")}
    if form["decision"] == "allow":
        realm_id = form.get("other_realm") or form.get("realm") or simulation.book.free_realm()
        code = simulation.book.create_code(form["client_id"], realm_id, form["redirect_uri"], simulation.now())
        answer = {"code": code, **answer, "realmId": realm_id}
    else:
        answer["error"] = "access_denied"
    return web.Response(status=302, headers={"Location": _with_query(form["redirect_uri"], answer)})


def is_loopback(redirect_uri: str) -> bool:
    """Say whether a redirect goes to this machine only."""
    try:
        parts = urlsplit(redirect_uri)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and parts.hostname in _LOOPBACK


def _mistake(simulation: Simulation, fields: dict[str, str]) -> str | None:
    if fields.get("client_id") not in simulation.clients.ids():
        return "unknown client_id"
    if not is_loopback(fields.get("redirect_uri", "")):
        return "redirect_uri must be on the loopback interface: this is a simulator"
    return None


def _companies(simulation: Simulation) -> list[str]:
    known = [grant.realm_id for grant in islice(simulation.book.grants(), _SHOWN_COMPANIES)]
    choices = [
        f'<label><input type="radio" name="realm" value="{escape(realm)}"> company {escape(realm)}</label><br>'
        for realm in dict.fromkeys(known)
    ]
    new = '<label><input type="radio" name="realm" value="" checked> a new company</label><br>'
    other = '<label>or, instead, the company with this realm id: <input name="other_realm" pattern="[0-9]*"></label>'
    return [*choices, new, other]


def _with_query(uri: str, more: dict[str, str]) -> str:
    parts = urlsplit(uri)
    query = "&".join(filter(None, [parts.query, urlencode(more)]))
    return urlunsplit(parts._replace(query=query))
