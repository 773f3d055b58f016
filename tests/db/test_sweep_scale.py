"""Row 37 with thousands: rows that can never go, most overdue of all, before two hundred that can."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.attempt import Keys
from worker.dispatch import Sweep, dispatch_due
from worker.policy import Pace
from worker.store import apps, dispatch
from worker.store.dispatch import _MARK_ORDINARY

if TYPE_CHECKING:
    import pytest

    from tests.support.fleet import Fleet
    from worker.refresh import Refresher

GOOD, NEVER = 200, 5_000
MARK = timedelta(minutes=10)
_CROWD = """
INSERT INTO qbo.connections (app_id, realm_id, realm_hash, refresh_token, next_refresh_at, last_outcome, not_before)
SELECT %(app)s, 'x', decode(lpad(to_hex(n), 32, '0'), 'hex'), 'x', now() - interval '30 days', %(outcome)s,
       now() + %(pause)s::interval
FROM generate_series(%(first)s::int, %(first)s::int + %(count)s::int - 1) n
"""


def crowd(fleet: Fleet, app_id: int, *, first: int = 1, outcome: str | None = None, pause: str | None = None) -> None:
    fleet.db.execute(_CROWD, {"app": app_id, "first": first, "count": NEVER, "outcome": outcome, "pause": pause})


def measured(fleet: Fleet, app_id: int) -> tuple[float, int, str]:
    """Return milliseconds (the best of nine), pages and plan of what marks the good ones."""
    values = {"app": app_id, "after": "-infinity", "after_id": 0, "limit": GOOD, "mark": MARK}
    found: list[tuple[float, int, str]] = []
    for _ in range(9):
        fleet.db.execute("BEGIN")
        explained: Any = fleet.db.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_MARK_ORDINARY}", values)
        (told,) = explained.scalar_one()
        fleet.db.execute("ROLLBACK")
        pages = told["Plan"]["Shared Hit Blocks"] + told["Plan"]["Shared Read Blocks"]
        found.append((told["Execution Time"], pages, json.dumps(told["Plan"])))
    return min(found)


def test_row_37_fifteen_thousand_rows_that_cannot_go_neither_fill_a_sweep_nor_slow_it_down(
    fleet: Fleet, refresher: Refresher, capsys: pytest.CaptureFixture[str]
) -> None:
    # Fails with `next_refresh_at` in place of `due_at` in `_MARK`, and with a join in place of the array: seen.
    good = fleet.connect(GOOD)
    app_id = good[0].app_id
    blocked, keyless = (apps.ensure(fleet.db, environment="sandbox", client_id=name) for name in ("blocked", "keyless"))
    fleet.db.execute("ANALYZE qbo.connections")
    alone_ms, alone_pages, _ = measured(fleet, app_id)

    crowd(fleet, app_id, outcome="unreadable", pause="1 hour")
    crowd(fleet, keyless)
    crowd(fleet, blocked)
    refused = b"refused"
    fleet.db.execute(
        "INSERT INTO qbo.app_blocks (app_id, secret_hash, reason, connection_ids, blocked_at, probe_at)"
        " VALUES (%(app)s, %(hash)s, 'invalid_client', '{}', now(), now() + interval '1 minute')",
        {"app": blocked, "hash": refused},
    )
    fleet.db.execute("ANALYZE qbo.connections")
    crowded_ms, crowded_pages, plan = measured(fleet, app_id)
    with capsys.disabled():
        sys.stdout.write(
            f"\nmarking {GOOD} due rows: {alone_ms:.2f} ms, {alone_pages} pages; beside {3 * NEVER} that cannot go:"
            f" {crowded_ms:.2f} ms, {crowded_pages} pages ({crowded_ms / alone_ms:.2f} times as long)\n"
        )
    assert "connections_due_idx" in plan
    assert '"Seq Scan"' not in plan
    # The table has become 75 times as large.
    assert crowded_pages < 2 * alone_pages
    assert crowded_ms < 5 * alone_ms

    published: list[int] = []
    keys = (
        Keys(app_id, tuple(secret.secret_hash for secret in refresher.secrets[app_id])),
        Keys(blocked, (refused,)),
    )
    sweep = Sweep(
        fleet.db, keys, GOOD, 10 * GOOD, timedelta(0), Pace(), MARK, queue_length=lambda: 0, publish=published.extend
    )
    assert dispatch_due(sweep).published == GOOD
    assert sorted(published) == [each.id for each in good], "the first sweep is full of those that can go"
    assert dispatch.open_apps(fleet.db, keys) == ([app_id], [])
