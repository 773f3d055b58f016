"""Which URLs are Intuit's, which are on this machine, and which are none."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import redis

from worker import reaching
from worker.settings.errors import SettingsError

TOKEN_URL = "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer"  # noqa: S105  # a URL
REVOKE_URL = "https://developer.api.intuit.com/v2/oauth2/tokens/revoke"
API_URLS = {
    "production": "https://quickbooks.api.intuit.com",
    "sandbox": "https://sandbox-quickbooks.api.intuit.com",
}
_INTUIT_HOSTS = frozenset(
    {"oauth.platform.intuit.com", "developer.api.intuit.com", "appcenter.intuit.com"}
    | {url.removeprefix("https://") for url in API_URLS.values()}
)


def is_intuit(url: str) -> bool:
    """Tell whether a URL is one of Intuit's, over TLS."""
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.netloc in _INTUIT_HOSTS


def is_loopback(url: str) -> bool:
    """Tell whether a URL is on this machine."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.username or not parts.hostname:
        return False
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def check_address(name: str, url: str) -> None:
    """Return if host and port of a variable's URL can be read.

    Raises:
        SettingsError: They cannot.
    """
    try:
        urlsplit(url).port  # noqa: B018  # reading it checks it
    except ValueError:
        # A driver would say so later, and quote the part of the password that it took for a port.
        raise SettingsError(reaching.malformed(name).sentence) from None


def check_redis(name: str, url: str) -> None:
    """Return if redis-py can read a variable's URL, options in its query included.

    Raises:
        SettingsError: It cannot.
    """
    check_address(name, url)
    try:
        redis.connection.parse_url(url)  # type: ignore[no-untyped-call] # redis-py's
    except ValueError:
        raise SettingsError(reaching.malformed(name).sentence) from None


def check_transport(name: str, scheme: str) -> None:
    """Return if kombu has a transport for the scheme of a variable's URL.

    Raises:
        SettingsError: It has none here.
    """
    from kombu.transport import resolve_transport  # noqa: PLC0415  # only those who deliver pay for it

    try:
        resolve_transport(scheme)
    except (ImportError, KeyError, NameError):  # the last by kombu (5.7) where Kafka's client is missing
        raise SettingsError(
            f"{name} is no URL of a broker that is supported here: it must begin with redis://, rediss://,"
            " amqp://, amqps:// or another scheme whose kombu transport is installed."
        ) from None
