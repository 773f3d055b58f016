"""Reading and marking connections for people and programs: by name, by label, all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.errors import QboRefreshError
from worker.store.transfer.outgoing import UNSETTLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.database import Database


class NoControlRow(QboRefreshError):
    """The control row is gone: a hand deleted it, or a restore left it out."""


def ids_by_id(db: Database, connection_id: int) -> list[int]:
    """Return the id itself if there is such a connection."""
    return [row.id for row in db.execute("SELECT id FROM qbo.connections WHERE id = %(id)s", {"id": connection_id})]


def ids_by_external_id(db: Database, external_id: str) -> list[int]:
    """Return the connection that a host's own id names."""
    rows = db.execute(
        "SELECT connection_id AS id FROM qbo.external_ids WHERE external_id = %(value)s", {"value": external_id}
    )
    return [row.id for row in rows]


def ids_by_realm_hash(db: Database, realm_hash: bytes) -> list[int]:
    """Return the connections of a company: one for each app at most."""
    rows = db.execute("SELECT id FROM qbo.connections WHERE realm_hash = %(hash)s ORDER BY id", {"hash": realm_hash})
    return [row.id for row in rows]


def has_label(db: Database, label: str) -> bool:
    """Tell whether any connection has this label."""
    row = db.execute(
        "SELECT EXISTS (SELECT FROM qbo.connections WHERE label = %(label)s) AS found", {"label": label}
    ).one()
    return bool(row.found)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which connections; what is None does not count.

    Attributes:
        share: So many in a hundred, by a hash of the id: a larger share has all of a smaller one, and more.
    """

    connection_id: int | None = None
    label: str | None = None
    share: int | None = None


_CHOSEN = """
    (%(id)s::bigint IS NULL OR c.id = %(id)s) AND (%(label)s::text IS NULL OR c.label = %(label)s)
    AND (%(share)s::int IS NULL
         OR ('x' || encode(substr(sha256(c.id::text::bytea), 1, 4), 'hex'))::bit(32)::bigint %% 100 < %(share)s)
"""


def _values(choice: Choice) -> dict[str, int | str | None]:
    return {"id": choice.connection_id, "label": choice.label, "share": choice.share}


def set_frozen(db: Database, choice: Choice, *, frozen: bool) -> int:
    """Freeze or thaw connections, and return how many changed. What is thawed is taken over."""
    statement = (
        "UPDATE qbo.connections c SET frozen = %(frozen)s, taken_over = taken_over OR NOT %(frozen)s"  # noqa: S608  # constants
        f" WHERE frozen <> %(frozen)s AND {_CHOSEN}"
    )
    changed = db.execute(statement, _values(choice) | {"frozen": frozen}).rowcount
    if not frozen and changed > 1:  # for one the whole fleet need not begin slowly
        db.execute("UPDATE qbo.control SET thawed_at = now()")
    return changed


def take_over(db: Database, choice: Choice) -> int:
    """Mark connections so that an old refresher leaves them alone, frozen as they are; return how many changed."""
    return db.execute(
        f"UPDATE qbo.connections c SET taken_over = true WHERE NOT taken_over AND {_CHOSEN}",  # noqa: S608  # constants
        _values(choice),
    ).rowcount


_AT_REST = f"c.frozen AND c.refresh_token IS NOT NULL AND NOT ({UNSETTLED})"


def hand_back(db: Database, choice: Choice) -> tuple[int, list[int]]:
    """Give connections back to an old refresher; return how many changed, and which are not at rest and stay."""
    with db.transaction():
        changed = db.execute(
            f"UPDATE qbo.connections c SET taken_over = false WHERE taken_over AND {_AT_REST} AND {_CHOSEN}",  # noqa: S608  # constants
            _values(choice),
        ).rowcount
        stay = db.execute(
            f"SELECT c.id FROM qbo.connections c WHERE taken_over AND refresh_token IS NOT NULL AND {_CHOSEN}"  # noqa: S608  # constants
            " ORDER BY c.id",
            _values(choice),
        )
        return changed, [row.id for row in stay]


def set_all_frozen(db: Database, *, frozen: bool, reason: str | None) -> bool:
    """Freeze or thaw everything through the control row, which every claim reads; False if it was so already.

    Args:
        reason: Of a freeze; another one replaces that of a freeze that stands, None leaves it.

    Raises:
        NoControlRow: There is nothing to write it into, and nothing is sent.
    """
    if db.execute("SELECT count(*) AS n FROM qbo.control").one().n == 0:
        raise NoControlRow(
            "The row of the table control is missing: nothing is sent until `qbo-refresh adopt-database`."
        )
    changed = db.execute(
        "UPDATE qbo.control SET frozen = %(frozen)s, frozen_reason = %(reason)s,"
        " thawed_at = CASE WHEN %(frozen)s THEN thawed_at ELSE now() END"
        " WHERE frozen <> %(frozen)s"
        " OR (frozen AND frozen_reason IS DISTINCT FROM coalesce(%(reason)s, frozen_reason))",
        {"frozen": frozen, "reason": reason},
    )
    return changed.rowcount == 1


def leased_now(db: Database, choice: Choice) -> int:
    """Return how many of these have an attempt under way: a freeze lets those finish."""
    row = db.execute(
        f"SELECT count(*) AS n FROM qbo.connections c WHERE leased_until > now() AND {_CHOSEN}",  # noqa: S608  # constants
        _values(choice),
    ).one()
    return int(row.n)


def lock(db: Database, connection_id: int) -> bool:
    """Take the connection's row until the transaction ends; False if there is none."""
    rows = db.execute("SELECT FROM qbo.connections WHERE id = %(id)s FOR UPDATE", {"id": connection_id})
    return len(rows.all()) == 1


def ids_with_label(db: Database, label: str, *, batch: int = 1000) -> Iterator[int]:
    """Yield the connections with a label, in batches."""
    after = 0
    while ids := [
        row.id
        for row in db.execute(
            "SELECT id FROM qbo.connections WHERE label = %(label)s AND id > %(after)s ORDER BY id LIMIT %(batch)s",
            {"label": label, "after": after, "batch": batch},
        )
    ]:
        yield from ids
        after = ids[-1]
