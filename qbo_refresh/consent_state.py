"""The state of a consent: signed with a key that host and worker share, and bound to one browser's session."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from qbo_refresh.errors import InvalidState
from qbo_refresh.sealing import Unsealable

if TYPE_CHECKING:
    from qbo_refresh.configuration import Configuration
    from qbo_refresh.secret import Secret

_SHORTEST_SESSION_NONCE = 16
_STATE = re.compile(r"(?P<key>[a-z0-9._-]{1,32})\.(?P<nonce>[\w-]{32})\.(?P<signature>[\w-]{43})")


def digest(*parts: Secret) -> bytes:
    """Return a hash of strings, so that what is signed of them may stand in a variable."""
    # What a browser brings may hold half of a surrogate pair: it is as wrong as anything else, and no crash.
    return hashlib.sha256("\x00".join(part.reveal() for part in parts).encode(errors="surrogatepass")).digest()


def is_long_enough(session: Secret) -> bool:
    """Tell whether a session's string can be a secret."""
    return len(session.reveal()) >= _SHORTEST_SESSION_NONCE


def nonce_hash(nonce: bytes) -> bytes:
    """Return what a state's row is found by."""
    return hashlib.sha256(nonce).digest()


def session_hash(config: Configuration, session: Secret, key_id: str) -> bytes:
    """Return what a state's row knows its session by."""
    return config.keyring.sign(b"session\x00" + digest(session), key_id=key_id)[1]


def _message(nonce: bytes, session: Secret) -> bytes:
    return b"state\x00" + nonce + digest(session)


def signed(config: Configuration, nonce: bytes, session: Secret) -> tuple[str, str]:
    """Return a state of this nonce for this session, and the id of the key that signed it."""
    key_id, signature = config.keyring.sign(_message(nonce, session))
    return f"{key_id}.{_text(nonce)}.{_text(signature)}", key_id


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _data(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verified(config: Configuration, state: str, session: Secret) -> tuple[bytes, str]:
    """Return the nonce of a state that we signed for this session, and the key's id.

    Raises:
        InvalidState: It is none.
    """
    found = _STATE.fullmatch(state) if isinstance(state, str) else None
    if found is None:
        raise InvalidState("malformed")
    try:
        nonce, signature = _data(found["nonce"]), _data(found["signature"])
        _, expected = config.keyring.sign(_message(nonce, session), key_id=found["key"])
    except (binascii.Error, ValueError):
        raise InvalidState("malformed") from None
    except Unsealable:
        raise InvalidState("unknown_key") from None
    if not hmac.compare_digest(signature, expected):
        raise InvalidState("signature")
    return nonce, found["key"]
