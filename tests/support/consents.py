"""Consents as a host and a person make them: a link, a code at the simulator, the callback. The exchange is left."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from qbo_refresh import authorizing, configuration, database, sealing
from tests.support.roles import of_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from intuit_simulator import Simulator

REDIRECT = "http://localhost:4711/callback"


@dataclass(frozen=True, slots=True)
class CalledBack:
    """What a browser brings to the callback, and its session's nonce."""

    code: str = field(repr=False)
    state: str
    realm_id: str
    session: str

    def arguments(self) -> tuple[str, str, str, str]:
        """Return what `complete` takes."""
        return self.code, self.state, self.realm_id, self.session


class Consents:
    """One host's links and callbacks."""

    def __init__(self, environment: Mapping[str, str], simulator: Simulator) -> None:
        self.simulator = simulator
        configuration.configure(
            database_url=of_host(environment["DATABASE_URL"]),
            client_keys=sealing.client_keys(environment["TOKEN_KEYS"]),
            authorize_url=simulator.authorize_url,
            redirect_url=REDIRECT,
            broker_url=of_host(environment["REDIS_URL"]),
        )
        self.config = configuration.current()

    def close(self) -> None:
        """Close this host's connections, and forget its configuration."""
        database.database().close()
        configuration.use(None)

    def link(self, connection: int | str, **options: Any) -> tuple[str, str]:
        """Return a link's state and the session it is for."""
        session = secrets.token_urlsafe()
        url = authorizing.authorize_url(connection, session, **options)
        return parse_qs(urlsplit(url).query)["state"][0], session

    def consent(self, connection: int | str, realm_id: str | None = None, **options: Any) -> CalledBack:
        """Follow a link and consent to a company, a new one if none is named."""
        state, session = self.link(connection, **options)
        code, realm_id = self.simulator.create_code(REDIRECT, realm_id=realm_id)
        return CalledBack(code, state, realm_id, session)

    def accept(self, brought: CalledBack) -> int:
        """Take the callback in, and return the authorization's id."""
        return authorizing.accept(self.config, *brought.arguments())

    def accepted(self, connection: int | str, realm_id: str | None = None, **options: Any) -> int:
        """Consent and take the callback in."""
        return self.accept(self.consent(connection, realm_id, **options))
