"""Finds a connection by its names: our id, `external:…` (a host's own) or `realm:…` (a QuickBooks company)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbo_refresh.errors import UnknownConnection
from qbo_refresh.secret import Secret
from worker.store import fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbo_refresh.sealing import Lookup
    from worker.database import Database


def find(db: Database, name: str, *, lookup: Callable[[], Lookup]) -> int:
    """Return the id of the connection that a name means.

    Args:
        db: The database.
        name: `7`, `external:acme-1` or `realm:9130…`.
        lookup: Gives the keyed hashes; asked for a realm only.

    Raises:
        UnknownConnection: It names none, or several, or is no name. A realm id is never repeated.
    """
    kind, separator, value = name.partition(":")
    if not separator and re.fullmatch(r"[0-9]{1,18}", name):
        ids = fleet.ids_by_id(db, int(name))
        shown = f"the id {name}"
    elif kind == "external" and value:
        ids = fleet.ids_by_external_id(db, value)
        shown = f"the external id {value!r}"
    elif kind == "realm" and value:
        ids = fleet.ids_by_realm_hash(db, lookup().realm_hash(Secret(value)))
        shown = "this realm id"
    else:
        raise UnknownConnection(f"{name!r} is no name of a connection: use 7, external:acme-1 or realm:-.")
    if not ids:
        raise UnknownConnection(f"No connection has {shown}: `qbo-refresh list` shows those there are.")
    if len(ids) > 1:
        listed = ", ".join(map(str, ids))
        raise UnknownConnection(f"Several connections have {shown} ({listed}): use the number of one.")
    return ids[0]
