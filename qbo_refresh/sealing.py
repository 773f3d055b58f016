"""Sealing of tokens and realm ids at rest (AES-256-GCM), and keyed hashes to find them by. Knows no table."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qbo_refresh.errors import QboRefreshError
from qbo_refresh.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

KEY_BYTES = 32
_NONCE_BYTES = 12  # NIST SP 800-38D's recommended length for GCM
_TAG_BYTES = 16
_FORMAT = 1
_CLIENT = "client"
KEY_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


class Field(StrEnum):
    """What a blob holds. The row's, the previous and a candidate's refresh token are one field: blobs move between."""

    REFRESH_TOKEN = "refresh_token"  # noqa: S105  # the name of a field
    ACCESS_TOKEN = "access_token"  # noqa: S105  # the name of a field
    REALM_ID = "realm_id"
    # Of a consent on its way, where the place's connection_id is the authorization's id.
    CODE = "authorization_code"
    CONSENTED_REALM_ID = "authorization_realm_id"
    CONSENTED_REFRESH_TOKEN = "authorization_refresh_token"  # noqa: S105  # the name of a field


_PURPOSE = {
    Field.REFRESH_TOKEN: "refresh",
    Field.ACCESS_TOKEN: _CLIENT,
    Field.REALM_ID: _CLIENT,
    Field.CODE: _CLIENT,
    Field.CONSENTED_REALM_ID: _CLIENT,
    Field.CONSENTED_REFRESH_TOKEN: "refresh",
}


class BadKeys(QboRefreshError):
    """TOKEN_KEYS, or a key of it, is not what it should be."""


class Unsealable(QboRefreshError):
    """A blob does not open: its key is missing (`key_missing`), or it was changed or belongs elsewhere."""

    def __init__(self, *, key_id: str | None, key_missing: bool) -> None:
        self.key_id = key_id
        self.key_missing = key_missing
        what = f"needs the key {key_id!r}, which is not in TOKEN_KEYS" if key_missing else "does not open in this place"
        super().__init__(f"a sealed value {what}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob belongs. It is authenticated with the blob, so that one moved elsewhere does not open.

    Attributes:
        grant_number: Which consent of the connection; 0 for the realm id, which outlives consents.
    """

    environment: str
    connection_id: int
    grant_number: int
    field: Field

    def associated_data(self) -> bytes:
        """Return the bytes that GCM authenticates: no two places have the same ones."""
        return f"qbo1|{self.environment}|{self.connection_id}|{self.grant_number}|{self.field}".encode()


def authorization_place(environment: str, authorization_id: int, field: Field) -> Place:
    """Return the place of a value of a consent on its way, before it belongs to a connection."""
    return Place(environment, authorization_id, 0, field)


def realm_place(environment: str, connection_id: int) -> Place:
    """Return the place of a connection's realm id."""
    return Place(environment, connection_id, 0, Field.REALM_ID)


def _derive(master: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"qbo-refresh/{purpose}".encode()).derive(master)


def _decode(text: str, *, name: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadKeys(f"{name} is not base64: make one with `qbo-refresh keys new`.") from error
    if len(key) != KEY_BYTES:
        raise BadKeys(f"{name} is {len(key)} bytes long, not {KEY_BYTES}: make one with `qbo-refresh keys new`.")
    return key


def _entries(text: str, *, name: str, mend: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for entry in re.split(r"[,\s]+", text.strip()):
        key_id, separator, encoded = entry.partition(":")
        if not separator or not KEY_ID.fullmatch(key_id):
            raise BadKeys(f"{name} must be `id:base64[,id:base64…]`: {mend}.")
        if key_id in seen:
            raise BadKeys(f"{name} has the id {key_id!r} twice: give each key an id of its own.")
        seen.add(key_id)
        yield key_id, encoded


def _masters(text: str) -> dict[str, bytes]:
    entries = _entries(text, name="TOKEN_KEYS", mend="make one with `qbo-refresh keys new`")
    return {key_id: _decode(encoded, name=f"TOKEN_KEYS (the key {key_id!r})") for key_id, encoded in entries}


def client_keys(token_keys: str) -> str:
    """Return CLIENT_KEYS for a host's processes: derived from TOKEN_KEYS, which cannot be had back from them.

    Raises:
        BadKeys: As `Keyring.from_text`.
    """
    derived = {key_id: base64.b64encode(_derive(master, _CLIENT)) for key_id, master in _masters(token_keys).items()}
    # The word tells them from TOKEN_KEYS: either is refused in the other's place.
    return ",".join(f"{key_id}:{_CLIENT}:{key.decode()}" for key_id, key in derived.items())


class Envelope:
    """Seals without letting other threads run in between: what that would do, drawing a nonce, is done beforehand."""

    def __init__(self, cipher: AESGCM, head: bytes, associated_data: bytes) -> None:
        """Draw the nonce. `Keyring.envelope` makes these."""
        self._cipher, self._head, self._bound_to = cipher, head, head + associated_data
        self._nonces = [os.urandom(_NONCE_BYTES)]

    def seal(self, secret: Secret) -> bytes:
        """Return the blob. A second secret has a nonce of its own, drawn then: none is ever used twice."""
        nonce = self._nonces.pop() if self._nonces else os.urandom(_NONCE_BYTES)
        return self._head + nonce + self._cipher.encrypt(nonce, secret.reveal().encode(), self._bound_to)


class Keyring:
    """The keys that seal and open. The first seals, all open.

    A worker holds every purpose; a host's process holds the `client` purpose alone and cannot open refresh tokens.
    """

    def __init__(self, keys: Mapping[str, Mapping[str, bytes]]) -> None:
        """Take key id → purpose (`refresh`, `client`) → 32 bytes, the sealing key first."""
        self._ciphers = {
            (key_id, purpose): AESGCM(key) for key_id, purposes in keys.items() for purpose, key in purposes.items()
        }
        # Its own key, derived from the client's: whoever can open an access token may begin a consent.
        self._signers = {
            key_id: _derive(purposes["client"], "state") for key_id, purposes in keys.items() if "client" in purposes
        }
        self._first = next(iter(keys))
        self.key_ids = tuple(keys)

    @classmethod
    def from_text(cls, text: str, *, purposes: Collection[str] = ("refresh", _CLIENT)) -> Self:
        """Read `id:base64[,id:base64…]` (commas, spaces or line breaks between), the form of TOKEN_KEYS.

        Args:
            text: The variable's value.
            purposes: What the keys are derived for; the others' cannot be had from the keyring.

        Raises:
            BadKeys: No key, a malformed one, or one id twice.
        """
        masters = _masters(text)
        return cls({key_id: {p: _derive(master, p) for p in purposes} for key_id, master in masters.items()})

    @classmethod
    def from_client_text(cls, text: str) -> Self:
        """Read CLIENT_KEYS, as `client_keys` makes them: access tokens and realm ids open, refresh tokens do not.

        Raises:
            BadKeys: No key, a malformed one, one id twice, or TOKEN_KEYS where they must not be.
        """
        keys: dict[str, dict[str, bytes]] = {}
        for key_id, encoded in _entries(text, name="CLIENT_KEYS", mend="print them with `qbo-refresh keys client`"):
            purpose, separator, key = encoded.partition(":")
            if not separator or purpose != _CLIENT:
                raise BadKeys("CLIENT_KEYS must be what `qbo-refresh keys client` prints, and never TOKEN_KEYS.")
            keys[key_id] = {_CLIENT: _decode(key, name=f"the key {key_id!r} in CLIENT_KEYS")}
        return cls(keys)

    def seal(self, secret: Secret, place: Place) -> bytes:
        """Seal with the first key. The blob is format, length of the key id, key id, nonce, ciphertext and tag."""
        return self.envelope(place).seal(secret)

    def envelope(self, place: Place) -> Envelope:
        """Return what seals a secret that is still to come for this place, with the first key."""
        key_id = self._first.encode()
        head = bytes((_FORMAT, len(key_id))) + key_id
        return Envelope(self._ciphers[self._first, _PURPOSE[place.field]], head, place.associated_data())

    def open(self, blob: bytes, place: Place) -> Secret:
        """Open a blob that was sealed for this place.

        Raises:
            Unsealable: The key is missing, or the blob was changed, cut or sealed for another place.
        """
        key_id = key_id_of(blob)
        cipher = self._ciphers.get((key_id, _PURPOSE[place.field])) if key_id else None
        if key_id is None or cipher is None:
            raise Unsealable(key_id=key_id, key_missing=key_id is not None)
        head = 2 + len(key_id)
        nonce, sealed = blob[head : head + _NONCE_BYTES], blob[head + _NONCE_BYTES :]
        try:
            return Secret(cipher.decrypt(nonce, sealed, blob[:head] + place.associated_data()).decode())
        except (InvalidTag, ValueError):
            raise Unsealable(key_id=key_id, key_missing=False) from None

    def sign(self, message: bytes, *, key_id: str | None = None) -> tuple[str, bytes]:
        """Return a key's id and its signature of a message (HMAC-SHA-256), by the first key unless one is named.

        Raises:
            Unsealable: The key is missing.
        """
        key_id = key_id or self._first
        if key_id not in self._signers:
            raise Unsealable(key_id=key_id, key_missing=True)
        return key_id, hmac.digest(self._signers[key_id], message, hashlib.sha256)


def key_id_of(blob: bytes) -> str | None:
    """Return the id of the key that a blob was sealed with, or None if it is no blob of ours."""
    if len(blob) < 2 or blob[0] != _FORMAT:  # noqa: PLR2004  # format and length
        return None
    head = 2 + blob[1]
    if len(blob) < head + _NONCE_BYTES + _TAG_BYTES:
        return None
    key_id = blob[2:head].decode("ascii", "replace")
    return key_id if KEY_ID.fullmatch(key_id) else None


class Lookup:
    """Keyed hashes, to find a realm or recognise a token without opening anything. Its key is never rotated."""

    def __init__(self, key: bytes) -> None:
        # Copied each time, where `hmac.digest` would let other threads run before it goes on: a token that was received
        # waits for this (1.8 ms beside one busy thread, 3 µs so; CPython 3.11).
        self._mac = hmac.new(key, digestmod=hashlib.sha256)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the base64 of LOOKUP_KEY.

        Raises:
            BadKeys: Not base64, or not 32 bytes.
        """
        return cls(_decode(text, name="LOOKUP_KEY"))

    def _hash(self, parts: Iterable[str]) -> bytes:
        mac = self._mac.copy()
        mac.update("\x00".join(parts).encode())
        return mac.digest()[:16]

    def realm_hash(self, realm_id: Secret) -> bytes:
        """Return 16 bytes that are the same for the same realm id; the app is a column of its own."""
        return self._hash(("realm", realm_id.reveal()))

    def fingerprint(self, refresh_token: Secret) -> bytes:
        """Return 16 bytes by which the ledger and the comparisons recognise a refresh token."""
        return self._hash(("refresh_token", refresh_token.reveal()))

    def check_value(self) -> bytes:
        """Return 16 bytes by which a database recognises this key."""
        return self._hash(("lookup_key",))

    def secret_hash(self, client_secret: Secret) -> bytes:
        """Return 16 bytes that name a client secret: an app is blocked per secret."""
        return self._hash(("client_secret", client_secret.reveal()))


def new_key() -> str:
    """Return 32 random bytes in base64, for TOKEN_KEYS or LOOKUP_KEY."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()
