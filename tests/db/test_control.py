from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbo_refresh import sealing
from worker.store import control

if TYPE_CHECKING:
    from worker.database import Database


def test_the_first_lookup_key_that_is_used_becomes_the_databases_own(database: Database) -> None:
    own, other = (sealing.Lookup.from_text(sealing.new_key()) for _ in range(2))
    assert control.recognises(database, own) is None
    control.check_lookup(database, own)
    control.check_lookup(database, own)
    assert control.recognises(database, other) is False
    with pytest.raises(control.WrongLookupKey):
        control.check_lookup(database, other)
    assert control.recognises(database, own)


def test_an_interrupted_transaction_leaves_a_connection_that_works(database: Database) -> None:
    def interrupted() -> None:
        with database.transaction():
            database.execute("UPDATE qbo.control SET frozen = true")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert database.execute("SELECT frozen FROM qbo.control").one().frozen is False
