"""An access token as it is handed to a host's code. Limit: what the host writes down after `reveal` is the host's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Self

from qbo_refresh.errors import ConfigurationError, QboRefreshError
from qbo_refresh.sealing import Field, Place, Unsealable, realm_place

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from qbo_refresh.sealing import Keyring
    from qbo_refresh.secret import Secret
    from qbo_refresh.standing import Standing


class Forgotten(QboRefreshError):
    """The block that the token was for is over."""


class AccessToken:
    """An access token of one connection. Its repr shows nothing of it, and it is not pickled.

    As a context manager it lasts for the block and is forgotten afterwards.

    Attributes:
        connection_id: Our id of the connection.
        expires_at: By the database's clock.
        realm_id: The QuickBooks company, for the URL of an API call: `realm_id.reveal()`.
        version: Which token of the connection it is; a newer one has a higher number.
    """

    __slots__ = ("_token", "connection_id", "expires_at", "realm_id", "version")

    def __init__(
        self, token: Secret, *, connection_id: int, realm_id: Secret, expires_at: datetime | None, version: int
    ) -> None:
        self._token: Secret | None = token
        self.connection_id, self.realm_id, self.expires_at, self.version = connection_id, realm_id, expires_at, version

    def reveal(self) -> str:
        """Return the token itself.

        Raises:
            Forgotten: It was for a block that is over.
        """
        if self._token is None:
            raise Forgotten("This access token was for a `with` block that is over: ask for another.")
        return self._token.reveal()

    @property
    def authorization(self) -> str:
        """The header `Authorization` of an API call. Raises as `reveal`."""
        return f"Bearer {self.reveal()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._token = None

    def __repr__(self) -> str:
        return f"AccessToken(connection_id={self.connection_id}, version={self.version})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AccessToken is not pickled: pass the connection's id, and ask there")


def opened(standing: Standing, keyring: Keyring) -> AccessToken:
    """Return the access token of a connection that has one.

    Raises:
        ConfigurationError: The key that it is sealed with is not here.
        Unsealable: It was changed or belongs elsewhere.
    """
    if standing.access_token is None:
        raise AssertionError("a connection without an access token")
    place = Place(standing.environment, standing.connection_id, standing.grant_number, Field.ACCESS_TOKEN)
    try:
        return AccessToken(
            keyring.open(standing.access_token, place),
            connection_id=standing.connection_id,
            realm_id=keyring.open(standing.realm_id, realm_place(standing.environment, standing.connection_id)),
            expires_at=standing.expires_at,
            version=standing.version,
        )
    except Unsealable as error:
        if not error.key_missing:
            raise
        raise ConfigurationError(
            f"CLIENT_KEYS lacks the key {error.key_id!r}: set what `qbo-refresh keys client` prints now."
        ) from None
