"""A host's side of a consent: the link to Intuit with its state, and what the callback brought, as a row.

The state is signed, single use, ten minutes old at most and bound to the browser's session. Neither a client secret nor
a refresh token is ever in this process: the worker exchanges the code.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from qbo_refresh import broker, configuration, connection_names, consent_state, names, other_side, watching
from qbo_refresh.connection_names import LONGEST, Kind
from qbo_refresh.database import Database, DatabaseAway, database
from qbo_refresh.errors import (
    ConfigurationError,
    ConsentFailed,
    InvalidState,
    TemporarilyUnavailable,
    WrongRealm,
)
from qbo_refresh.sealing import Field, authorization_place
from qbo_refresh.secret import Secret
from qbo_refresh.status import Authorized

if TYPE_CHECKING:
    from celery import Celery

    from qbo_refresh.configuration import Configuration

SCOPE = "com.intuit.quickbooks.accounting"
STATE_LIVES_S = 600
_CODE = re.compile(r"[\x21-\x7e]{1,4096}")
_REALM = re.compile(r"[\x21-\x7e]{1,64}")  # wider than the import's: here it is Intuit's own word
_ASK_AGAIN_S, _RETRY_AFTER_S = 3.0, 2.0


@dataclass(frozen=True, slots=True)
class Connected:
    """What a consent came to."""

    connection_id: int


@dataclass(frozen=True, slots=True)
class _Brought:
    """What a callback brought. Not strings: error reports show the variables of every frame."""

    code: Secret
    state: str
    realm_id: Secret
    session: Secret


@dataclass(frozen=True, slots=True)
class _Goal:
    """What a consent is for: a connection that is here, or the name of one that will be."""

    app_id: int
    client_id: str
    connection_id: int | None
    external_id: str | None


def authorize_url(
    connection: int | str,
    session_nonce: str,
    *,
    label: str | None = None,
    environment: str | None = None,
    client_id: str | None = None,
) -> str:
    """Return the address at Intuit where a person consents; redirect the browser there.

    Args:
        connection: Our id, or `external:…`. An external id that is new makes a new connection of that name.
            It has at most 200 characters, and no control characters.
        session_nonce: A random string that this browser's session keeps, 16 characters at least: the callback must come
            from the same session.
        label: What people call a new connection, in 200 characters at most.
        environment: Of a new connection, if the worker has several apps; `production` or `sandbox`.
        client_id: The same.

    Raises:
        UnknownConnection: No connection has this id, or it is no name.
        ValueError: The session's nonce is too short, or an argument is no text that PostgreSQL can hold.
        ConfigurationError: INTUIT_REDIRECT_URL is missing, or it is not clear which app a new connection is for.
        TemporarilyUnavailable: PostgreSQL is away.
    """
    session = _hidden(session_nonce)
    del session_nonce
    _check_given(session, label=label, environment=environment, client_id=client_id)
    fake = other_side.fake_consents()
    if fake is not None:
        return fake.link(connection, session, label=label)
    config = configuration.current()
    if config.redirect_url is None:
        raise ConfigurationError(
            "INTUIT_REDIRECT_URL is not set: it is the address of your callback, exactly as in your app's settings at"
            " developer.intuit.com."
        )
    return begin(
        config,
        connection,
        session,
        label=label,
        environment=environment,
        client_id=client_id,
        redirect_url=config.redirect_url,
    )


def begin(
    config: Configuration,
    connection: int | str,
    session: Secret,
    *,
    label: str | None,
    environment: str | None,
    client_id: str | None,
    redirect_url: str,
) -> str:
    """Do what `authorize_url` does, with a redirect URL of the caller's."""
    nonce = secrets.token_bytes(24)
    state, key_id = consent_state.signed(config, nonce, session)
    try:
        goal = _goal(database(), connection, environment=environment, client_id=client_id)
        database().rows(
            "INSERT INTO qbo.authorizations (app_id, connection_id, external_id, label, redirect_url, state_hash,"
            " session_hash, expires_at) VALUES (%(app)s, %(connection)s, %(external)s, %(label)s, %(redirect)s,"
            " %(state)s, %(session)s, now() + make_interval(secs => %(lives)s)) ON CONFLICT (state_hash) DO NOTHING",
            {
                "app": goal.app_id,
                "connection": goal.connection_id,
                "external": goal.external_id,
                "label": label,
                "redirect": redirect_url,
                "state": consent_state.nonce_hash(nonce),
                "session": consent_state.session_hash(config, session, key_id),
                "lives": STATE_LIVES_S,
            },
        )
    except DatabaseAway as error:
        raise TemporarilyUnavailable("database_unavailable", _RETRY_AFTER_S) from error
    return link(config.authorize_url, client_id=goal.client_id, redirect_url=redirect_url, state=state)


def link(page: str, *, client_id: str, redirect_url: str, state: str) -> str:
    """Return the address of a consent at Intuit."""
    query = {
        "client_id": client_id,
        "response_type": "code",
        "scope": SCOPE,
        "redirect_uri": redirect_url,
        "state": state,
    }
    return f"{page}?{urlencode(query)}"


def _check_given(session: Secret, **texts: str | None) -> None:
    if not consent_state.is_long_enough(session):
        raise ValueError(
            "session_nonce must be a random string of 16 characters or more that the browser's session keeps:"
            " secrets.token_urlsafe() makes one."
        )
    for argument, text in texts.items():
        if text is not None and not connection_names.is_storable(text):
            raise ValueError(
                f"{argument} must be a text of at most {LONGEST} characters, without NUL and half surrogates."
            )


def complete(code: str, state: str, realm_id: str, session_nonce: str, *, timeout: float = 10.0) -> Connected:
    """Hand over what Intuit's redirect brought, and wait until the worker has exchanged it.

    Called again with the same arguments, after a crash or a `TemporarilyUnavailable`, it goes on where it was.

    Args:
        code: The query's `code`.
        state: The query's `state`.
        realm_id: The query's `realmId`.
        session_nonce: As it was given to `authorize_url`, from this browser's session.
        timeout: How many seconds to wait for the worker.

    Raises:
        InvalidState: The state was forged, is expired, was used, or is of another session.
        WrongRealm: Another company was chosen; nothing was stored.
        ConsentFailed: Intuit refused the code, or its answer was lost: the person starts again from the link.
        TemporarilyUnavailable: The worker has not finished in time, and goes on; or PostgreSQL is away.
        ConfigurationError: There is no Celery app to ask the worker with.
    """
    brought = _Brought(_hidden(code), state, _hidden(realm_id), _hidden(session_nonce))
    del code, realm_id, session_nonce
    fake = other_side.fake_consents()
    if fake is not None:
        _check_session(brought)
        _check_query(brought)
        return Connected(fake.complete(brought.code, brought.state, brought.realm_id, brought.session))
    try:
        authorization_id = _accept(configuration.current(), brought)
        return _wait(database(), authorization_id, until=time.monotonic() + timeout)
    except DatabaseAway as error:
        raise TemporarilyUnavailable("database_unavailable", _RETRY_AFTER_S) from error


def accept(config: Configuration, code: str, state: str, realm_id: str, session_nonce: str) -> int:
    """Verify a state, seal what came with it into its row, and return the authorization's id.

    Raises:
        InvalidState: As `complete`.
        DatabaseAway: PostgreSQL is away.
    """
    brought = _Brought(_hidden(code), state, _hidden(realm_id), _hidden(session_nonce))
    del code, realm_id, session_nonce
    return _accept(config, brought)


def _accept(config: Configuration, brought: _Brought) -> int:
    _check_session(brought)
    nonce, key_id = consent_state.verified(config, brought.state, brought.session)
    _check_query(brought)
    values: dict[str, Any] = {
        "state": consent_state.nonce_hash(nonce),
        "session": consent_state.session_hash(config, brought.session, key_id),
        "code_hash": config.keyring.sign(
            b"code\x00" + consent_state.digest(brought.code, brought.realm_id), key_id=key_id
        )[1],
    }
    row = database().row(
        "SELECT z.id, a.environment FROM qbo.authorizations z JOIN qbo.apps a ON a.id = z.app_id"
        " WHERE z.state_hash = %(state)s",
        values,
    )
    if row is None:
        raise InvalidState("unknown")
    code_place = authorization_place(row.environment, row.id, Field.CODE)
    realm_place = authorization_place(row.environment, row.id, Field.CONSENTED_REALM_ID)
    values["code"] = config.keyring.seal(brought.code, code_place)
    values["realm_id"] = config.keyring.seal(brought.realm_id, realm_place)
    if database().row(_USE, values) is None:
        _check_used(values)
    return int(row.id)


def _check_session(brought: _Brought) -> None:
    if not consent_state.is_long_enough(brought.session):  # a browser that comes without its session, mostly
        raise InvalidState("session")


def _check_query(brought: _Brought) -> None:
    if not (_CODE.fullmatch(brought.code.reveal()) and _REALM.fullmatch(brought.realm_id.reveal())):
        raise InvalidState("malformed")


_USE = """
UPDATE qbo.authorizations
SET used_at = now(), code_hash = %(code_hash)s, code = %(code)s, realm_id = %(realm_id)s
WHERE state_hash = %(state)s AND session_hash = %(session)s AND used_at IS NULL AND expires_at > now()
RETURNING id
"""


def _check_used(values: dict[str, Any]) -> None:
    """Return if a state that could not be used now has been used by this very call before.

    Raises:
        InvalidState: It has not.
    """
    row = database().row(
        "SELECT used_at IS NOT NULL AS used, code_hash = %(code_hash)s AS same, session_hash = %(session)s AS mine"
        " FROM qbo.authorizations WHERE state_hash = %(state)s",
        values,
    )
    if row is None:
        raise InvalidState("unknown")
    if not row.mine:
        raise InvalidState("session")
    if not row.used:
        raise InvalidState("expired")
    if not row.same:
        raise InvalidState("used")


def _hidden(given: str) -> Secret:
    """Return what a web application gave, whose types nobody has checked: what is no string is as good as nothing."""
    return Secret(given if isinstance(given, str) else "")


def _goal(db: Database, connection: int | str, *, environment: str | None, client_id: str | None) -> _Goal:
    kind, name = connection_names.for_consent(connection)
    by_external_id = "(SELECT connection_id FROM qbo.external_ids WHERE external_id = %(name)s)"
    row = db.row(
        "SELECT c.id, c.app_id, a.client_id FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id WHERE c.id = "  # noqa: S608  # constants
        + ("%(name)s" if kind is Kind.ID else by_external_id),
        {"name": name},
    )
    if row is not None:
        return _Goal(row.app_id, row.client_id, row.id, None if kind is Kind.ID else str(name))
    external_id = connection_names.new(kind, name)
    apps = db.rows(
        "SELECT id, client_id FROM qbo.apps WHERE (%(environment)s::text IS NULL OR environment = %(environment)s)"
        " AND (%(client)s::text IS NULL OR client_id = %(client)s)",
        {"environment": environment, "client": client_id},
    )
    if len(apps) != 1:
        raise ConfigurationError(
            "It is not clear which Intuit app a new connection is for: "
            + ("the worker has several; name environment and client_id." if apps else "start the worker once.")
        )
    return _Goal(apps[0].id, apps[0].client_id, None, external_id)


_OUTCOME = """
SELECT z.outcome, z.reason, z.connection_id, z.leased_until > now() AS leased,
       COALESCE(c.label, z.label, z.external_id, 'connection ' || c.id) AS expected,
       (SELECT COALESCE(o.label, min(e.external_id), 'connection ' || o.id) FROM qbo.connections o
        LEFT JOIN qbo.external_ids e ON e.connection_id = o.id WHERE o.id = z.other_connection_id GROUP BY o.id) AS got
FROM qbo.authorizations z LEFT JOIN qbo.connections c ON c.id = COALESCE(
    z.connection_id, (SELECT x.connection_id FROM qbo.external_ids x WHERE x.external_id = z.external_id))
WHERE z.id = %(id)s
"""


def outcome(db: Database, authorization_id: int) -> tuple[Connected | None, str]:
    """Return the connection that got the grant; None and a word while it is not finished.

    Raises:
        WrongRealm, ConsentFailed: As `complete`.
        DatabaseAway: PostgreSQL is away.
    """
    row = db.row(_OUTCOME, {"id": authorization_id})
    if row is None:
        raise ConsentFailed("deleted")
    match row.outcome:
        case None:
            return None, str(row.reason or "in_progress")
        case Authorized.CONNECTED:
            return Connected(row.connection_id), "connected"
        case Authorized.REFUSED if row.reason == "wrong_realm":
            raise WrongRealm(str(row.expected), row.got)
        case _:
            raise ConsentFailed(str(row.reason))


def _wait(db: Database, authorization_id: int, *, until: float) -> Connected:
    app = broker.app()
    why, ask_at, is_broker_away = "in_progress", time.monotonic(), False
    for _ in watching.looks(until):
        found, why = outcome(db, authorization_id)
        if found is not None:
            return found
        if ask_at <= time.monotonic() < until:  # whoever has no time left finds out how it stands, and asks nobody
            is_broker_away = not _ask(app, authorization_id)
            ask_at = time.monotonic() + _ASK_AGAIN_S
    raise TemporarilyUnavailable("broker_unavailable" if is_broker_away else why, _RETRY_AFTER_S)


def _ask(app: Celery, authorization_id: int) -> bool:
    """Ask the worker for the exchange; False if the broker is away: then the next sweep finds the row."""
    try:
        broker.send(app, names.EXCHANGE, authorization_id)
    except Exception:  # noqa: BLE001  # each transport has its own, and none is more than "not sent"
        return False
    return True
