"""`connect`: a consent on a developer's machine, from the link to the grant."""

from __future__ import annotations

import secrets
import time
import webbrowser
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import click

from qbo_refresh import authorizing, configuration, database
from worker import runtime, settings
from worker.cli.choosing import resolve
from worker.cli.loopback import Callback
from worker.cli.printing import json_option, print_json
from worker.exchange import exchange
from worker.settings import SettingsError

if TYPE_CHECKING:
    from qbo_refresh.authorizing import Connected
    from qbo_refresh.configuration import Configuration
    from worker.cli.loopback import Query
    from worker.runtime import Runtime
    from worker.settings import Settings

_LOOPBACK = ("localhost", "127.0.0.1")
_PATH = "/callback"
_EXCHANGED_WITHIN_S = 120.0
_ASK_EVERY_S = 0.5


@click.command()
@click.argument("connection", required=False)
@click.option("--external-id", help="Your own id: of a new connection, or of one that is here.")
@click.option("--label", help="What people call a new connection.")
@click.option("--wait", type=click.FloatRange(1, 3600), default=600, show_default=True, help="Seconds for the person.")
@click.option("--browser/--no-browser", default=True, help="Open the link, or only print it.")
@json_option
def connect(
    *, connection: str | None, external_id: str | None, label: str | None, wait: float, browser: bool, as_json: bool
) -> int:
    """Connect a new company, or reconnect a CONNECTION, with the browser of this machine.

    The callback is this command itself: INTUIT_REDIRECT_URL must be http://localhost:PORT/PATH and stand in the app's
    settings at developer.intuit.com, which take that for development keys (sandbox) only. With the simulator it may be
    left out. The exchange is done in this process: no worker needs to run.

    Exit status 1 if the person declines.
    """
    if (connection is None) == (external_id is None):
        raise click.UsageError("Name one of these: a CONNECTION, or --external-id ID.")
    config = settings.load()
    port, path = _address(config)
    here = runtime.build(config)
    _client(config, config.intuit_redirect_url)
    try:
        name = f"external:{external_id}" if external_id is not None else resolve(here.db, config, str(connection))
        with Callback(port=port, path=path) as callback:
            client = _client(config, config.intuit_redirect_url or f"http://localhost:{callback.port}{path}")
            session = secrets.token_urlsafe()
            url = authorizing.authorize_url(name, session, label=label, **_app(config))
            click.echo(f"Open this link and allow access:\n\n{url}\n", err=as_json)
            if browser:
                webbrowser.open(url)
            query = callback.wait(wait, state=parse_qs(urlsplit(url).query)["state"][0])
        if query.error:
            click.echo("The person has declined: nothing is connected.", err=True)
            return 1
        connected = _finish(here, client, query, session)
    finally:
        database.database().close()
        here.close()
    if as_json:
        print_json({"connection_id": connected.connection_id})
    else:
        click.echo(f"Connection {connected.connection_id} is connected.")
    return 0


def _address(config: Settings) -> tuple[int, str]:
    """Return the port and path to listen on; port 0 for a free one.

    Raises:
        SettingsError: INTUIT_REDIRECT_URL is not on this machine, or is missing where Intuit compares it.
    """
    mend = "set INTUIT_REDIRECT_URL to http://localhost:8477/callback, say, and add that to the app's redirect URIs."
    if config.intuit_redirect_url is None:
        if config.intuit_authorize_url == configuration.AUTHORIZE_URL:
            raise SettingsError(f"Intuit sends browsers only to addresses that it knows: {mend}")
        return 0, _PATH
    parts = urlsplit(config.intuit_redirect_url)
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK or not parts.port:
        raise SettingsError(f"INTUIT_REDIRECT_URL is not on this machine: for `connect`, {mend}")
    return parts.port, parts.path or "/"


def _client(config: Settings, redirect_url: str | None) -> Configuration:
    configuration.configure(
        database_url=config.database(),
        database_schema=config.database_schema,
        token_keys=config.keys_text(),
        authorize_url=config.intuit_authorize_url,
        redirect_url=redirect_url,
    )
    return configuration.current()


def _app(config: Settings) -> dict[str, str]:
    """Return which app a new connection is for: the one configured first."""
    first = config.apps()[0]
    return {"environment": first.environment, "client_id": first.client_id}


def _finish(here: Runtime, client: Configuration, query: Query, session: str) -> Connected:
    """Exchange what came, in this process, and again while nothing was spent."""
    authorization_id = authorizing.accept(client, query.code, query.state, query.realm_id, session)
    until = time.monotonic() + _EXCHANGED_WITHIN_S
    while True:
        result = exchange(here.exchanger, authorization_id)
        connected, why = authorizing.outcome(database.database(), authorization_id)
        if connected is not None:
            return connected
        if time.monotonic() > until:
            raise settings.SettingsError(f"Not connected yet ({why}): a running worker goes on with it.")
        if result.outcome is None:
            time.sleep(_ASK_EVERY_S)
