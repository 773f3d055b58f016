"""The apps that may call, and which of their secrets are valid. Pure."""

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Presented:
    """What a call's Authorization header said."""

    client_id: str
    secret: str = field(repr=False)


class Clients:
    """Client ids with their valid secrets; several at once are a rotation in progress."""

    def __init__(self, secrets: Mapping[str, Iterable[str]]) -> None:
        self._secrets = {client_id: list(values) for client_id, values in secrets.items()}

    def ids(self) -> list[str]:
        """Return the client ids."""
        return list(self._secrets)

    def set_secrets(self, client_id: str, secrets: Iterable[str]) -> None:
        """Make exactly these secrets valid; none at all locks the app out."""
        self._secrets[client_id] = list(secrets)

    def accept(self, presented: Presented | None) -> bool:
        """Say whether the id and the secret belong together."""
        if presented is None:
            return False
        valid = self._secrets.get(presented.client_id, [])
        return any(hmac.compare_digest(presented.secret.encode(), each.encode()) for each in valid)


def parse_basic(header: str | None) -> Presented | None:
    """Read an HTTP Basic header; None if it is missing or malformed."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    client_id, colon, secret = decoded.partition(":")
    return Presented(client_id, secret) if colon else None
