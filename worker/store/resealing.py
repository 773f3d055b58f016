"""Blobs that are not sealed with the first key, and putting newly sealed ones in their place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Place
from worker.store.blobs import IS_BLOB, KEY_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.database import Database


@dataclass(frozen=True, slots=True)
class Blobs:
    """One connection's sealed values, and the version that they are of."""

    connection_id: int
    environment: str
    grant_number: int
    token_version: int
    realm_id: bytes = field(repr=False)
    refresh_token: bytes | None = field(repr=False)
    previous_refresh_token: bytes | None = field(repr=False)
    access_token: bytes | None = field(repr=False)


_OLD = f"{IS_BLOB} AND {KEY_ID} <> %(first)s::bytea"
_ROWS = f"""
SELECT c.id AS connection_id, a.environment, c.grant_number, c.token_version, c.realm_id, c.refresh_token,
       c.previous_refresh_token, c.access_token
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id
WHERE c.id > %(after)s AND ({_OLD.format("c.realm_id")} OR {_OLD.format("c.refresh_token")}
    OR {_OLD.format("c.previous_refresh_token")} OR {_OLD.format("c.access_token")})
ORDER BY c.id LIMIT %(limit)s
"""  # noqa: S608  # composed of constants


def rows(db: Database, first_key: str, *, after: int, limit: int) -> Sequence[Blobs]:
    """Return connections above an id, of which a blob is sealed with another key than the first."""
    found = db.execute(_ROWS, {"first": first_key.encode(), "after": after, "limit": limit})
    return [
        Blobs(
            row.connection_id,
            row.environment,
            row.grant_number,
            row.token_version,
            bytes(row.realm_id),
            *(
                None if blob is None else bytes(blob)
                for blob in (row.refresh_token, row.previous_refresh_token, row.access_token)
            ),
        )
        for row in found
    ]


# What was sealed anew is of the version that was read. If a refresh, a reconnect or a disconnect came between, the row
# has other tokens and keeps them. The version stays: whoever holds a claim of it saves as if nothing had been.
_REPLACE = """
UPDATE qbo.connections c
SET realm_id = n.realm_id, refresh_token = n.refresh_token, previous_refresh_token = n.previous_refresh_token,
    access_token = n.access_token
FROM unnest(%(ids)b::bigint[], %(versions)b::bigint[], %(grants)b::int[], %(realms)b::bytea[], %(tokens)b::bytea[],
            %(previous)b::bytea[], %(access)b::bytea[])
    AS n (id, version, grant_number, realm_id, refresh_token, previous_refresh_token, access_token)
WHERE c.id = n.id AND c.token_version = n.version AND c.grant_number = n.grant_number
"""


def replace(db: Database, sealed: Sequence[Blobs]) -> int:
    """Put newly sealed blobs into the rows whose version is still the one that was read; return into how many."""
    values = {
        "ids": [each.connection_id for each in sealed],
        "versions": [each.token_version for each in sealed],
        "grants": [each.grant_number for each in sealed],
        "realms": [each.realm_id for each in sealed],
        "tokens": [each.refresh_token for each in sealed],
        "previous": [each.previous_refresh_token for each in sealed],
        "access": [each.access_token for each in sealed],
    }
    return db.execute(_REPLACE, values).rowcount


@dataclass(frozen=True, slots=True)
class Kind:
    """A column outside `connections` that holds sealed values.

    Attributes:
        owner: Whose place the values are sealed for, in SQL, and of which grant.
        app: How to get from `x`, the table, to its app `a`.
    """

    table: str
    column: str
    field: Field
    owner: str = "x.connection_id"
    grant: str = "x.grant_number"
    app: str = "JOIN qbo.apps a ON a.id = x.app_id"


CANDIDATES = Kind(
    "candidates",
    "refresh_token",
    Field.REFRESH_TOKEN,
    app="JOIN qbo.connections c ON c.id = x.connection_id JOIN qbo.apps a ON a.id = c.app_id",
)
# What is on its way, or to be ended.
OTHERS = (
    Kind("revocations", "refresh_token", Field.REFRESH_TOKEN),
    Kind("authorizations", "code", Field.CODE, owner="x.id", grant="0"),
    Kind("authorizations", "realm_id", Field.CONSENTED_REALM_ID, owner="x.id", grant="0"),
)


@dataclass(frozen=True, slots=True)
class Single:
    """One sealed value of a row that holds it until it is forgotten: nothing else ever takes its place."""

    row_id: int
    place: Place
    blob: bytes = field(repr=False)


def singles(db: Database, kind: Kind, first_key: str, *, after: int, limit: int) -> Sequence[Single]:
    """Return values of rows above an id that are sealed with another key than the first."""
    blob = f"x.{kind.column}"
    found = db.execute(
        f"SELECT x.id, a.environment, {kind.owner} AS owner, {kind.grant} AS grant_number, {blob} AS blob"  # noqa: S608  # constants
        f" FROM qbo.{kind.table} x {kind.app} WHERE x.id > %(after)s AND {_OLD.format(blob)}"
        " ORDER BY x.id LIMIT %(limit)s",
        {"first": first_key.encode(), "after": after, "limit": limit},
    )
    return [
        Single(row.id, Place(row.environment, row.owner, row.grant_number, kind.field), bytes(row.blob))
        for row in found
    ]


def replace_singles(db: Database, kind: Kind, sealed: Sequence[Single]) -> int:
    """Put newly sealed values where there is one still; return how many."""
    return db.execute(
        f"UPDATE qbo.{kind.table} x SET {kind.column} = n.blob"  # noqa: S608  # constants
        " FROM unnest(%(ids)b::bigint[], %(blobs)b::bytea[]) AS n (id, blob)"
        f" WHERE x.id = n.id AND x.{kind.column} IS NOT NULL",
        {"ids": [each.row_id for each in sealed], "blobs": [each.blob for each in sealed]},
    ).rowcount
