"""The environment variables: their names, their checks, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, AliasGenerator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from qbo_refresh.configuration import AUTHORIZE_URL
from qbo_refresh.sealing import Keyring, Lookup
from qbo_refresh.secret import Secret
from worker.policy import LONGEST_LEASE, Pace
from worker.settings import apps, urls
from worker.settings.apps import App
from worker.settings.env_file import ENV_FILE
from worker.settings.errors import CREDENTIALS, KEYS, SettingsError, Unset, unset

if TYPE_CHECKING:
    from collections.abc import Mapping

# Stands in RECONNECT_URL for a host's own id of a connection.
EXTERNAL_ID = "{external_id}"
_URL: Any = {"pattern": r"^https?://\S+$", "description": "a URL that begins with https:// or http://"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Intuit listens.

    Attributes:
        api_urls: Environment → where QuickBooks' API is, without a path.
    """

    token_url: str
    revoke_url: str
    api_urls: Mapping[str, str] = field(default_factory=lambda: urls.API_URLS)


def _names(field: str) -> AliasChoices:
    return AliasChoices(f"QBO_{field.upper()}", field.upper())


@dataclass(frozen=True, slots=True)
class EventTarget:
    """Where the host's task for events is called: its name, its queue, and its broker's URL for kombu."""

    task: str
    queue: str
    broker_url: Secret


class Settings(BaseSettings):
    """What the environment says. Each name is read with the prefix `QBO_` too, which wins."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=_names),
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = None
    migration_database_url: SecretStr | None = None
    database_schema: str = Field(
        "qbo",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="a name of at most 63 small letters, digits and _ that begins with no digit",
    )
    redis_url: SecretStr | None = None
    token_keys: SecretStr | None = None
    token_keys_file: Path | None = None
    lookup_key: SecretStr | None = None
    intuit_client_id: str | None = None
    intuit_client_secret: SecretStr | None = None
    intuit_client_secret_previous: SecretStr | None = None
    intuit_environment: Literal["production", "sandbox"] = "production"
    intuit_apps: Annotated[SecretStr | None, NoDecode] = None
    intuit_token_url: str = urls.TOKEN_URL
    intuit_revoke_url: str = urls.REVOKE_URL
    intuit_api_url: str | None = None
    intuit_authorize_url: str = Field(AUTHORIZE_URL, **_URL)
    intuit_redirect_url: str | None = Field(None, **_URL)
    allow_token_url: str | None = Field(None, **_URL)
    reconnect_url: str | None = Field(
        None,
        pattern=r"^https?://\S*\{external_id\}\S*$",
        description=f"a URL of yours that contains {EXTERNAL_ID}",
    )
    event_task: str | None = Field(None, pattern=r"^\S+$", description="the name of a task, without spaces")
    event_queue: str = Field("celery", min_length=1, max_length=255, description="a name of at most 255 characters")
    event_broker_url: SecretStr | None = None
    flower_basic_auth: SecretStr | None = None
    refresh_per_minute: int = Field(1200, ge=1, le=10_000_000)
    lease_seconds: float = Field(60, ge=1, le=LONGEST_LEASE.total_seconds(), allow_inf_nan=False)
    confirm_after_seconds: float = Field(900, ge=0, le=30 * 86400, allow_inf_nan=False)
    backoff_seconds: float = Field(60, gt=0, le=3600, allow_inf_nan=False)
    sweep_seconds: float = Field(60, gt=0, le=3600, allow_inf_nan=False)
    heartbeat_url: str | None = Field(None, **_URL)
    sentry_dsn: SecretStr | None = None
    sentry_environment: str | None = Field(
        None, pattern=r"^[^\s/]{1,64}$", description="a name of at most 64 characters without spaces and slashes"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def pace(self) -> Pace:
        """Return the durations that policy works with."""
        return Pace(
            lease=timedelta(seconds=self.lease_seconds),
            confirm_after=timedelta(seconds=self.confirm_after_seconds),
            backoff=timedelta(seconds=self.backoff_seconds),
        )

    @property
    def queue_mark(self) -> timedelta:
        """Return how long a published message counts as under way: ten sweeps, 10 min by default."""
        return timedelta(seconds=10 * self.sweep_seconds)

    @property
    def refreshes_per_sweep(self) -> int:
        """Return how many connections one sweep may publish."""
        return max(1, round(self.refresh_per_minute * self.sweep_seconds / 60))

    def database(self, *, migration: bool = False) -> str:
        """Return the database's URL for SQLAlchemy with psycopg; `postgres://` is taken too.

        Raises:
            SettingsError: It is missing, or is no PostgreSQL URL.
        """
        name, url = "DATABASE_URL", self.database_url
        if migration and self.migration_database_url is not None:
            name, url = "MIGRATION_DATABASE_URL", self.migration_database_url
        if url is None:
            raise unset(
                "DATABASE_URL is not set: point it at PostgreSQL (postgresql://user:password@host/name),"
                " or use `qbo-refresh run --embedded` to try without one",
                kept_in=CREDENTIALS,
            )
        scheme, separator, rest = url.get_secret_value().partition("://")
        if not separator or scheme.partition("+")[0] not in {"postgres", "postgresql"}:
            raise SettingsError(f"{name} is not a PostgreSQL URL: it must begin with postgresql:// or postgres://.")
        urls.check_address(name, url.get_secret_value())
        return f"postgresql+psycopg://{rest}"

    def redis(self) -> str:
        """Return the URL of Redis or Valkey.

        Raises:
            SettingsError: It is missing, or is no such URL.
        """
        if self.redis_url is None:
            raise unset(
                "REDIS_URL is not set: point it at Redis or Valkey (redis://:password@host:6379/0)", kept_in=CREDENTIALS
            )
        url = self.redis_url.get_secret_value()
        if url.partition("://")[0] not in {"redis", "rediss"}:
            raise SettingsError("REDIS_URL is not a Redis URL: it must begin with redis:// or rediss://.")
        urls.check_redis("REDIS_URL", url)
        return url

    def event_target(self) -> EventTarget | None:
        """Return where events are delivered; None if EVENT_TASK is not set.

        Raises:
            SettingsError: EVENT_BROKER_URL, or REDIS_URL in its place, is no URL of a broker that is supported here.
        """
        if self.event_task is None:
            return None
        url = self.redis() if self.event_broker_url is None else self.event_broker_url.get_secret_value()
        for each in url.split(";"):
            urls.check_address("EVENT_BROKER_URL", each)
            urls.check_transport("EVENT_BROKER_URL", each.partition("://")[0])
        return EventTarget(self.event_task, self.event_queue, Secret(url))

    def flower_login(self) -> Secret | None:
        """Return who may log in to Flower, as Flower reads it: `user:password[,user:password…]`; None for unset.

        Raises:
            SettingsError: Nobody could log in with a part of it.
        """
        if self.flower_basic_auth is None:
            return None
        logins = self.flower_basic_auth.get_secret_value()
        if not all(all(login.partition(":")) for login in logins.split(",")):
            raise SettingsError(
                "FLOWER_BASIC_AUTH is not a user and a password with a colon between: write user:password, or unset it."
            )
        return Secret(logins)

    def keyring(self) -> Keyring:
        """Return the keys that seal and open tokens.

        Raises:
            SettingsError, BadKeys: TOKEN_KEYS is missing, unreadable or malformed.
        """
        return Keyring.from_text(self.keys_text())

    def keys_text(self) -> str:
        """Return TOKEN_KEYS, or what is in TOKEN_KEYS_FILE.

        Raises:
            SettingsError: Neither is set, or both are, or the file is unreadable.
        """
        if self.token_keys is not None and self.token_keys_file is not None:
            raise SettingsError("TOKEN_KEYS and TOKEN_KEYS_FILE are both set: unset the one that is not meant.")
        if self.token_keys is not None:
            return self.token_keys.get_secret_value()
        if self.token_keys_file is None:
            raise unset("TOKEN_KEYS is not set: make keys with `qbo-refresh keys new` and keep them safe", kept_in=KEYS)
        try:
            return self.token_keys_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"TOKEN_KEYS_FILE {self.token_keys_file} cannot be read: {why}.") from error

    def lookup(self) -> Lookup:
        """Return the keyed hashes.

        Raises:
            SettingsError, BadKeys: LOOKUP_KEY is missing or malformed.
        """
        if self.lookup_key is None:
            raise unset(
                "LOOKUP_KEY is not set: make one with `qbo-refresh keys new`; it is never rotated", kept_in=KEYS
            )
        return Lookup.from_text(self.lookup_key.get_secret_value())

    def apps(self) -> tuple[App, ...]:
        """Return the Intuit apps whose keys are here, from INTUIT_APPS or from INTUIT_CLIENT_ID and its secrets.

        Raises:
            SettingsError: None is configured, or one is malformed.
        """
        if self.intuit_apps is not None:
            return apps.parse(self.intuit_apps.get_secret_value())
        if self.intuit_client_id is None or self.intuit_client_secret is None:
            raise Unset(
                "INTUIT_CLIENT_ID and INTUIT_CLIENT_SECRET are not set: copy them from your app's page at"
                " developer.intuit.com, Keys and credentials."
            )
        previous = self.intuit_client_secret_previous
        named = {
            "INTUIT_CLIENT_ID": self.intuit_client_id,
            "INTUIT_CLIENT_SECRET": self.intuit_client_secret.get_secret_value(),
            "INTUIT_CLIENT_SECRET_PREVIOUS": previous.get_secret_value() if previous else None,
        }
        client_id, *secrets = (apps.copied(name, text) for name, text in named.items() if text is not None)
        return (App(self.intuit_environment, client_id, tuple(map(Secret, secrets))),)

    def endpoint(self) -> Endpoint:
        """Return Intuit's URLs, each Intuit's own, on loopback, or the one that ALLOW_TOKEN_URL names.

        Raises:
            SettingsError: A refresh token would go to a stranger.
        """
        for name, url, what in (
            ("INTUIT_TOKEN_URL", self.intuit_token_url, "refresh tokens"),
            ("INTUIT_REVOKE_URL", self.intuit_revoke_url, "refresh tokens"),
            ("INTUIT_API_URL", self.intuit_api_url, "access tokens"),
        ):
            if url is None:
                continue
            urls.check_address(name, url)
            if not urls.is_intuit(url) and not urls.is_loopback(url) and url != self.allow_token_url:
                raise SettingsError(
                    f"{name} is neither Intuit's nor on loopback: {what} would go to a stranger."
                    f" If that is meant, set ALLOW_TOKEN_URL to the same URL."
                )
        return Endpoint(self.intuit_token_url, self.intuit_revoke_url, self._api_urls())

    def _api_urls(self) -> Mapping[str, str]:
        """Return where each environment's API is. A simulator's is beside its token endpoint."""
        url = self.intuit_api_url
        if url is None and urls.is_loopback(self.intuit_token_url):
            url = urlsplit(self.intuit_token_url)._replace(path="", query="", fragment="").geturl()
        return urls.API_URLS if url is None else dict.fromkeys(urls.API_URLS, url.rstrip("/"))
