"""The control row's note of which LOOKUP_KEY this database was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.errors import QboRefreshError

if TYPE_CHECKING:
    from qbo_refresh.sealing import Lookup
    from worker.database import Database


class WrongLookupKey(QboRefreshError):
    """Under another LOOKUP_KEY no realm and no token would be recognised: one grant would get two rows."""


def recognises(db: Database, lookup: Lookup) -> bool | None:
    """Tell whether LOOKUP_KEY is this database's own; None if it has none yet."""
    row = db.execute("SELECT lookup_check FROM qbo.control").one_or_none()
    if row is None or row.lookup_check is None:
        return None
    return bool(row.lookup_check == lookup.check_value())


def check_lookup(db: Database, lookup: Lookup) -> None:
    """Return if LOOKUP_KEY is this database's own; the first one that is used becomes that.

    Raises:
        WrongLookupKey: It is another.
    """
    if recognises(db, lookup) is None:
        db.execute(
            "UPDATE qbo.control SET lookup_check = %(check)s WHERE lookup_check IS NULL",
            {"check": lookup.check_value()},
        )
    if recognises(db, lookup) is False:
        raise WrongLookupKey(
            "LOOKUP_KEY is not the one that this database was made with: put that one back; it never changes."
        )
