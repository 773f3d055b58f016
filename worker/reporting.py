"""Sentry, if SENTRY_DSN is set: what it may be told. Everything that leaves passes through `Scrubber`.

No local variables, no request bodies, no traces, and only the integrations named here: the others put Redis commands
and headers of requests into events, and some add headers to requests of ours.
"""

from __future__ import annotations

import base64
import contextlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from qbo_refresh.errors import QboRefreshError
from worker.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.settings import Settings

GONE = "[scrubbed]"
# A shorter one would be found in ordinary words; URLs lose theirs by their shape anyway.
_SHORTEST_SECRET = 6
_LONGEST_NUMBER = 10**9  # realm ids have 10 digits and more; our own ids do not get there
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_SHAPES = (
    (re.compile(r"(://[^\s/@:]*:)[^\s@]+@"), rf"\1{GONE}@"),
    (re.compile(r"(?i)\b(basic|bearer)\s+[\w+/=.~-]{6,}"), rf"\1 {GONE}"),
    (re.compile(r"RT1-[\w-]+|\bAB11\w{6,}|\beyJ[\w-]{8,}[\w.=-]*"), GONE),
    (re.compile(r"(?<!\d)\d{10,}(?!\d)"), GONE),
)
# Base64 and hex of 24 bytes and more; identifiers in lower case and the ids of attempts and tasks stay.
_LONG = re.compile(rf"(?<![\w+/-])(?!{_UUID}(?![\w-]))[\w+/-]{{32,}}={{0,2}}")
_RANDOM_LOOKING = re.compile(r"(?=.*[a-z])(?=.*[A-Z])|\d")
# What Sentry itself makes of ids and places in code; none holds a value of ours.
_SENTRYS_OWN = frozenset(
    {"event_id", "trace_id", "span_id", "parent_span_id", "thread_id", "timestamp", "release", "sdk", "platform"}
    | {"filename", "abs_path", "module", "function", "modules"}
)


class Scrubber:
    """Takes secrets out of an event: those this process knows, in clear and encoded, and whatever looks like one."""

    def __init__(self, known: Iterable[str]) -> None:
        """Take the secrets of this process."""
        self._known = sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return a text without what is or looks like a secret."""
        for secret in self._known:
            text = text.replace(secret, GONE)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return _LONG.sub(lambda found: GONE if _RANDOM_LOOKING.search(found[0]) else found[0], text)

    def value(self, value: Any) -> Any:
        """Return a value of an event, whatever its depth, without secrets."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {
                    self.text(name) if isinstance(name, str) else name: kept
                    if name in _SENTRYS_OWN
                    else self.value(kept)
                    for name, kept in value.items()
                    if name != "vars"
                }
            case list() | tuple():
                return [self.value(entry) for entry in value]
            case bool() | float() | None:
                return value
            case int():
                return value if abs(value) < _LONGEST_NUMBER else GONE
            case _:
                return self.text(str(value))


def _forms(secret: str) -> Iterator[str]:
    if len(secret) >= _SHORTEST_SECRET:
        encoded = base64.b64encode(secret.encode()).decode()
        yield from (secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1], encoded.rstrip("="))


def _known_secrets(config: Settings) -> Iterator[str]:
    for url in (config.database_url, config.migration_database_url, config.redis_url, config.event_broker_url):
        for each in (url.get_secret_value() if url else "").split(";"):  # kombu takes several brokers in one
            yield from _password(each)
    login = config.flower_basic_auth
    yield from (each.partition(":")[2] for each in (login.get_secret_value() if login else "").split(","))
    for keys in (config.token_keys, config.lookup_key):
        yield from _keys(keys.get_secret_value() if keys else "")
    if config.token_keys_file is not None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            yield from _keys(config.token_keys_file.read_text())
    with contextlib.suppress(QboRefreshError):  # said elsewhere, by whoever needs them
        for app in config.apps():
            for client_secret in app.secrets:
                yield client_secret.reveal()
                yield f"{app.client_id}:{client_secret.reveal()}"  # as in an Authorization header


def _password(url: str) -> Iterator[str]:
    with contextlib.suppress(ValueError):
        password = urlsplit(url).password or ""
        yield from (password, unquote(password))


def _keys(text: str) -> Iterator[str]:
    return (entry.rpartition(":")[2] for entry in re.split(r"[,\s]+", text))


def scrubber(config: Settings) -> Scrubber:
    """Return the scrubber that knows this configuration's secrets."""
    return Scrubber(_known_secrets(config))


def _prepare(event: Any, hint: Any, scrub: Scrubber) -> Any:
    """Group our own log events by name and reason, and take out what must not leave."""
    record = hint.get("log_record")
    name = getattr(record, "event", None)
    if isinstance(name, str):
        fields = getattr(record, "fields", {})
        event["fingerprint"] = [name, str(fields.get("reason") or "")]
        event["logentry"] = {"message": name, "formatted": name, "params": []}
        event["extra"] = dict(fields)
    return scrub.value(event)


def start(config: Settings, *, transport: Any = None) -> bool:
    """Begin to report this process's errors; False if SENTRY_DSN is not set.

    Args:
        config: This process's settings.
        transport: Takes the place of Sentry's own, in tests.

    Raises:
        SettingsError: SENTRY_DSN is malformed.
    """
    if config.sentry_dsn is None:
        return False
    # Only those who report pay for the import.
    import sentry_sdk  # noqa: PLC0415
    from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.celery import CeleryIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.dedupe import DedupeIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.logging import LoggingIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.threading import ThreadingIntegration  # noqa: PLC0415
    from sentry_sdk.utils import BadDsn  # noqa: PLC0415

    scrub = scrubber(config)
    try:
        sentry_sdk.init(
            dsn=config.sentry_dsn.get_secret_value(),
            environment=config.sentry_environment or config.intuit_environment,
            transport=transport,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[
                AtexitIntegration(callback=lambda *_: None),
                CeleryIntegration(propagate_traces=False),
                DedupeIntegration(),
                ExcepthookIntegration(),
                LoggingIntegration(),
                ThreadingIntegration(propagate_scope=False),
            ],
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=30,
            trace_propagation_targets=[],
            auto_session_tracking=False,
            before_send=lambda event, hint: _prepare(event, hint, scrub),
        )
    except BadDsn:
        raise SettingsError("SENTRY_DSN is not a DSN: copy it from the project's Client Keys in Sentry.") from None
    return True
