"""What a connection may be called, and which name a host's words are. Pure: it asks nobody."""

from __future__ import annotations

import re
from enum import StrEnum

from qbo_refresh.errors import UnknownConnection

LONGEST = 200  # characters, as the import takes them
_LARGEST_ID = 2**63 - 1  # PostgreSQL's bigint
# PostgreSQL's text holds neither NUL nor half of a surrogate pair.
_STORABLE = re.compile(rf"[^\x00\ud800-\udfff]{{0,{LONGEST}}}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Kind(StrEnum):
    """By what a connection is named."""

    ID = "id"
    EXTERNAL = "external"
    REALM = "realm"


def is_storable(text: object) -> bool:
    """Tell whether a column of a name or a label can hold it."""
    return isinstance(text, str) and _STORABLE.fullmatch(text) is not None


def understood(connection: int | str) -> tuple[Kind, int | str]:
    """Return what kind of name this is, and the id, external id or realm id itself.

    Raises:
        UnknownConnection: It is a name that no connection can have.
    """
    if isinstance(connection, int) and not isinstance(connection, bool):
        return Kind.ID, _possible(connection)
    if isinstance(connection, str):
        kind, _, value = connection.partition(":")
        # Python refuses to make a number of some thousand digits.
        if connection.isascii() and connection.isdigit() and is_storable(connection):
            return Kind.ID, _possible(int(connection))
        if kind in (Kind.EXTERNAL, Kind.REALM) and value and is_storable(value):
            return Kind(kind), value
    # Not repeated: it may be a realm id.
    raise UnknownConnection("That is no name of a connection: use 7, external:acme-1 or realm:….")


def _possible(connection_id: int) -> int:
    if not 0 < connection_id <= _LARGEST_ID:
        raise UnknownConnection("No connection has this id: ids are positive, and PostgreSQL's bigint holds them.")
    return connection_id


def for_consent(connection: int | str) -> tuple[Kind, int | str]:
    """Return what `understood` does, for a consent: which company it is, the person says.

    Raises:
        UnknownConnection: As `understood`, or it is named by its company.
    """
    kind, name = understood(connection)
    if kind is Kind.REALM:
        raise UnknownConnection("A connection is named by our id, 7, or by one of yours, external:acme-1.")
    return kind, name


def new(kind: Kind, name: int | str) -> str:
    """Return the external id of a new connection. The import may have brought stranger ones: they are read as they are.

    Raises:
        UnknownConnection: It is an id of ours, or holds control characters.
    """
    if kind is Kind.ID:
        raise UnknownConnection(f"No connection has the id {name}: a new one is named external:…, by an id of yours.")
    if _CONTROL.search(str(name)):
        raise UnknownConnection("An external id of a new connection holds no control characters.")
    return str(name)
