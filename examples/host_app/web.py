"""The host's pages: every customer's connection, the way to Intuit, and the way back. Standard library only.

Who is signed in, and that this customer is theirs, is checked here in a real application before anything else.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterable
from http.cookies import SimpleCookie
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import qbo_refresh
from host_app import connections, pages, store
from host_app.app import app

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
_SESSION = "host_session"


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request of a browser (WSGI)."""
    path = environ["PATH_INFO"]
    session = _session(environ)
    known = {customer.id: customer for customer in store.customers()}
    link, _, customer_id = path.rpartition("/")
    if path == "/":
        answer = pages.Page("200 OK", pages.overview(_overview()))
    elif path == "/customers.json":
        answer = pages.Page("200 OK", json.dumps(_overview(), default=str), "application/json")
    elif path == "/quickbooks/callback":
        answer = callback(parse_qs(environ["QUERY_STRING"]), session)
    elif link == "/quickbooks/connect" and customer_id in known:
        answer = connect(known[customer_id], session)
    else:
        answer = pages.message("404 Not Found", "There is no such page.")
    # Lax, not Strict: the browser comes back from Intuit with this cookie. Behind https it would be Secure, too.
    cookie = f"{_SESSION}={session}; Path=/; HttpOnly; SameSite=Lax"
    start_response(answer.status, [*answer.headers, ("Set-Cookie", cookie)])
    return [answer.body.encode()]


def connect(customer: store.Customer, session: str) -> pages.Page:
    """Send a customer to Intuit, to connect or to reconnect: the page behind RECONNECT_URL."""
    try:
        return pages.redirect(qbo_refresh.authorize_url(customer.connection, session, label=customer.name))
    except qbo_refresh.TemporarilyUnavailable:
        return pages.message("503 Service Unavailable", "That is not possible at the moment. Please try again soon.")


def callback(query: dict[str, list[str]], session: str) -> pages.Page:
    """Take a customer back from Intuit: INTUIT_REDIRECT_URL."""
    if "error" in query:
        return pages.message("200 OK", "You have not allowed access; nothing has changed.")
    code, state, realm_id = (query.get(name, [""])[0] for name in ("code", "state", "realmId"))
    try:
        connected = qbo_refresh.complete(code, state, realm_id, session)
    except qbo_refresh.WrongRealm as error:
        return pages.message(
            "409 Conflict", f"That was another company. Please start again, and choose {error.expected} at QuickBooks."
        )
    except qbo_refresh.TemporarilyUnavailable:
        return pages.message("202 Accepted", "One moment …", reload_after_seconds=2)  # the same query goes on
    except qbo_refresh.InvalidState:
        return pages.message("400 Bad Request", "This attempt is too old, or was used already. Please start again.")
    except qbo_refresh.ConsentFailed:
        return pages.message("400 Bad Request", "QuickBooks could not be connected. Please start again.")
    for customer_id in connections.external_ids(connected.connection_id):
        store.note_connected(customer_id)
    app.send_task("host_app.sync_everyone")
    return pages.redirect("/")


def _overview() -> list[dict[str, Any]]:
    """Return all that the page shows."""
    return [
        {
            "id": customer.id,
            "name": customer.name,
            "connection": connections.standing(customer.id),
            **store.activity(customer.id),
        }
        for customer in store.customers()
    ]


def _session(environ: Environ) -> str:
    """Return the browser session's secret: what its cookie holds, or a new one."""
    cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(_SESSION)
    return cookie.value if cookie and len(cookie.value) >= 32 else secrets.token_urlsafe(32)  # noqa: PLR2004


class _Server(ThreadingMixIn, WSGIServer):
    """One thread for each request: `complete` waits for the worker."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Logs no query: that of the callback holds a code and a realm id."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        """Log method, path and status."""
        self.log_message("%s %s %s", self.command, self.path.partition("?")[0], code)


def main() -> None:
    """Serve on loopback until the process is ended."""
    store.make_tables()
    port = int(os.environ["WEB_PORT"])
    with make_server("127.0.0.1", port, application, server_class=_Server, handler_class=_Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
