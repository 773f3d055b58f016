"""The HTTP server: one port, its own small dispatch, ended by a signal or by its parent's end."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web

from intuit_simulator import admin, api, consent, endpoints
from intuit_simulator.simulation import Setup, Simulation
from intuit_simulator.wire import Wire

TOKEN_PATH: Final = "/oauth2/v1/tokens/bearer"  # noqa: S105  # a path
REVOKE_PATH: Final = "/v2/oauth2/tokens/revoke"
AUTHORIZE_PATH: Final = "/connect/oauth2"
DISCOVERY_PATHS: Final = ("/.well-known/openid_configuration", "/.well-known/openid_sandbox_configuration")

_BACKLOG: Final = 4096
_PARENT_CHECK_SECONDS: Final = 1.0


class Server(web.Server):
    """aiohttp's low-level server with connections that show their bytes."""

    def __call__(self) -> web.RequestHandler:
        """Make a connection's protocol."""
        return Wire(self, loop=asyncio.get_running_loop())


class Site:
    """Sends each request to its part."""

    def __init__(self, simulation: Simulation, admin_key: str) -> None:
        self._simulation = simulation
        self._admin_key = admin_key

    async def dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.raw_path
        wire = cast("Wire", request.protocol)
        try:
            if path == TOKEN_PATH:
                return await endpoints.serve(self._simulation, request, wire, endpoints.TOKEN)
            if path == REVOKE_PATH:
                return await endpoints.serve(self._simulation, request, wire, endpoints.REVOKE)
            return await self._dispatch_rare(request)
        finally:
            wire.forget_request()

    async def _dispatch_rare(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith(admin.PREFIX):
            return await admin.handle(self._simulation, request, self._admin_key)
        if path.startswith(api.PREFIX):
            return api.answer(self._simulation, request)
        if path == AUTHORIZE_PATH and request.method == "GET":
            return consent.show(self._simulation, request)
        if path == AUTHORIZE_PATH and request.method == "POST":
            return await consent.decide(self._simulation, request)
        if path in DISCOVERY_PATHS:
            return web.json_response(discovery(self._simulation.base_url))
        return web.json_response({"error": "not_found"}, status=404)


def discovery(base_url: str) -> dict[str, Any]:
    """Return the discovery document, with the fields that clients insist on; what OpenID alone needs is not served."""
    return {
        "issuer": base_url,
        "authorization_endpoint": base_url + AUTHORIZE_PATH,
        "token_endpoint": base_url + TOKEN_PATH,
        "revocation_endpoint": base_url + REVOKE_PATH,
        "userinfo_endpoint": base_url + "/v1/openid_connect/userinfo",
        "jwks_uri": base_url + "/op/v1/jwks",
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "scopes_supported": ["com.intuit.quickbooks.accounting"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    }


async def run(
    setup: Setup, *, port: int, admin_key: str, announce: Callable[[str], None], watches_parent: bool = False
) -> None:
    """Serve on the loopback interface until told to stop.

    Args:
        setup: what it begins with, and returns to on a reset.
        admin_key: what admin calls must present.
        port: 0 for a free one.
        announce: called once with the base URL, when connections are accepted.
        watches_parent: end, too, when standard input reaches its end or the parent process has changed.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    simulation = Simulation(setup)
    server = Server(Site(simulation, admin_key).dispatch)
    listening = await loop.create_server(server, "127.0.0.1", port, backlog=_BACKLOG, family=socket.AF_INET)
    simulation.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    # What exists now lives as long as the process; and a journal or a fleet makes no cycles worth looking for often.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    announce(simulation.base_url)
    watch = asyncio.create_task(_watch_parent(stop)) if watches_parent else None
    await stop.wait()
    if watch:
        watch.cancel()
    listening.close()
    simulation.lift_all_faults()
    await server.shutdown(timeout=0.05)  # 0 would mean to wait for idle connections for ever


async def _watch_parent(stop: asyncio.Event) -> None:
    parent = os.getppid()
    pipe = sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(pipe, 1024):
            stop.set()

    asyncio.get_running_loop().add_reader(pipe, on_readable)
    # A process that the parent forked may hold the pipe open after the parent's end.
    while os.getppid() == parent:  # noqa: ASYNC110  # nothing tells of it but asking
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
    stop.set()
