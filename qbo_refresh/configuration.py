"""What a host's process is told of the worker's database, keys and broker: by `configure`, or by its environment.

It holds no refresh-token key and no client secret: from TOKEN_KEYS, where there is nothing else, only what opens access
tokens and realm ids is derived.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from qbo_refresh.errors import ConfigurationError
from qbo_refresh.sealing import BadKeys, Keyring, Lookup
from qbo_refresh.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

POOL_SIZE = 5
AUTHORIZE_URL = "https://appcenter.intuit.com/connect/oauth2"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_POSTGRESQL = re.compile(r"(?:postgres|postgresql)(?:\+\w+)?://")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a process is told.

    Attributes:
        database_url: For psycopg; it may hold a password.
        schema: Where the worker's tables are.
        keyring: Opens access tokens and realm ids, and nothing else.
        lookup: The keyed hashes, for connections named `realm:…`; None without LOOKUP_KEY.
        app: The host's Celery app that shares the worker's broker; None for the one that is current.
        broker_url: The worker's broker, if it is not that of the host's app; it may hold a password.
        pool_size: The most connections to PostgreSQL that one process keeps.
        authorize_url: Intuit's page on which a person consents.
        redirect_url: The host's callback; None where nobody connects.
    """

    database_url: Secret
    schema: str
    keyring: Keyring
    lookup: Lookup | None = None
    app: Celery | None = None
    broker_url: Secret | None = None
    pool_size: int = POOL_SIZE
    authorize_url: str = AUTHORIZE_URL
    redirect_url: str | None = None


def configure(
    *,
    database_url: str | None = None,
    database_schema: str | None = None,
    client_keys: str | None = None,
    token_keys: str | None = None,
    lookup_key: str | None = None,
    app: Celery | None = None,
    broker_url: str | None = None,
    pool_size: int = POOL_SIZE,
    authorize_url: str | None = None,
    redirect_url: str | None = None,
) -> None:
    """Say how this process reaches the worker; what is not said is read from the environment.

    Call it once, where the process starts. Nothing is connected yet, and a forked child makes connections of its own.
    A variable that is not set is missed by the first call that needs it: builds and tests have none.

    Args:
        database_url: DATABASE_URL.
        database_schema: DATABASE_SCHEMA, `qbo` if it is not set.
        client_keys: CLIENT_KEYS, as `qbo-refresh keys client` prints them.
        token_keys: TOKEN_KEYS, in place of them: for a small set-up where every process may hold these.
        lookup_key: LOOKUP_KEY; only to name connections `realm:…`.
        app: Your Celery app; the worker is asked through it if it shares the worker's broker.
        broker_url: WORKER_BROKER_URL, if your app has another broker or you have none: it goes before the app's.
        pool_size: The most connections to PostgreSQL that this process keeps.
        authorize_url: INTUIT_AUTHORIZE_URL; another than Intuit's for its simulator.
        redirect_url: INTUIT_REDIRECT_URL, the address of your callback; only to connect and reconnect.

    Raises:
        ConfigurationError, BadKeys: Something is malformed.
    """
    global _said  # noqa: PLW0603  # one for the process, by design
    # From here on they are in no variable: error reports show those of every frame.
    database, broker = _secret(database_url), _secret(broker_url)
    client, token, lookup = _secret(client_keys), _secret(token_keys), _secret(lookup_key)
    del database_url, broker_url, client_keys, token_keys, lookup_key
    use(None)
    _said = partial(
        _configuration,
        database,
        client,
        token,
        lookup,
        broker,
        schema=database_schema,
        authorize_url=authorize_url,
        redirect_url=redirect_url,
        app=app,
        pool_size=pool_size,
    )
    with suppress(_NotSetError):
        current()


def current() -> Configuration:
    """Return what `configure` was told, or what the environment says.

    Raises:
        ConfigurationError, BadKeys: Something is missing or malformed.
    """
    global _current  # noqa: PLW0603  # one for the process, by design
    if _current is None:
        _current = _said()
    return _current


class _NotSetError(ConfigurationError):
    """The environment lacks what every call needs."""


def _configuration(  # what `configure` takes
    database: Secret | None = None,
    client_keys: Secret | None = None,
    token_keys: Secret | None = None,
    lookup: Secret | None = None,
    broker: Secret | None = None,
    *,
    schema: str | None = None,
    authorize_url: str | None = None,
    redirect_url: str | None = None,
    app: Celery | None = None,
    pool_size: int = POOL_SIZE,
) -> Configuration:
    return Configuration(
        database_url=_database_url(database or _given("DATABASE_URL")),
        schema=_schema(schema or _read("DATABASE_SCHEMA") or "qbo"),
        keyring=_keyring(client_keys, token_keys),
        lookup=_lookup(lookup or _given("LOOKUP_KEY")),
        app=app,
        broker_url=broker or _given("WORKER_BROKER_URL"),
        pool_size=pool_size,
        authorize_url=_page("INTUIT_AUTHORIZE_URL", authorize_url) or AUTHORIZE_URL,
        redirect_url=_page("INTUIT_REDIRECT_URL", redirect_url),
    )


_said: Callable[[], Configuration] = _configuration
_current: Configuration | None = None


def use(configuration: Configuration | None) -> None:
    """Put a configuration in force; None to read the environment anew when it is next needed."""
    global _current, _said  # one for the process, by design
    _current, _said = configuration, _configuration


def _read(name: str) -> str | None:
    """Return a variable, the one with the prefix first; an empty one counts as missing."""
    return os.environ.get(f"QBO_{name}") or os.environ.get(name) or None


def _secret(text: str | None) -> Secret | None:
    return Secret(text) if text else None


def _given(name: str) -> Secret | None:
    return _secret(_read(name))


def _database_url(url: Secret | None) -> Secret:
    if url is None:
        raise _NotSetError(
            "DATABASE_URL is not set: point it, or QBO_DATABASE_URL, at the worker's PostgreSQL"
            " (postgresql://user:password@host/name)."
        )
    if not _POSTGRESQL.match(url.reveal()):
        raise ConfigurationError("DATABASE_URL is not a PostgreSQL URL: it must begin with postgresql://.")
    return Secret(_POSTGRESQL.sub("postgresql://", url.reveal(), count=1))


def _page(name: str, url: str | None) -> str | None:
    """Return an address that a browser is sent to: https, or on this machine, as Intuit has it too."""
    url = url or _read(name)
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or parts.fragment or not (local or parts.scheme == "https"):
        raise ConfigurationError(f"{name} must be an https:// address, or http:// on this machine, with no #.")
    return url


def _schema(name: str) -> str:
    if not _SCHEMA.fullmatch(name):
        raise ConfigurationError("DATABASE_SCHEMA must be small letters, digits and _, as the worker's is.")
    return name


def _keyring(client_keys: Secret | None, token_keys: Secret | None) -> Keyring:
    client_keys = client_keys or (None if token_keys else _given("CLIENT_KEYS"))
    keys = client_keys or token_keys or _given("TOKEN_KEYS") or _file(_read("TOKEN_KEYS_FILE"))
    if keys is None:
        raise _NotSetError(
            "CLIENT_KEYS is not set: where the worker's TOKEN_KEYS are, `qbo-refresh keys client` prints it."
        )
    try:
        if client_keys:
            return Keyring.from_client_text(keys.reveal())
        return Keyring.from_text(keys.reveal(), purposes=("client",))
    except BadKeys as error:
        raise BadKeys(*error.args) from None  # anew, without the frames that read the keys


def _file(name: str | None) -> Secret | None:
    if name is None:
        return None
    try:
        return Secret(Path(name).read_text())
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"TOKEN_KEYS_FILE {name} cannot be read.") from None


def _lookup(key: Secret | None) -> Lookup | None:
    try:
        return Lookup.from_text(key.reveal()) if key else None
    except BadKeys as error:
        raise BadKeys(*error.args) from None  # as above
