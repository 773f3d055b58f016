"""Sweeps over thousands of rows: all due at once; and rows that can never go, most overdue of all.

`FULL=1` has 100,000 due at once, and publishes them all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
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

FULL = bool(os.environ.get("FULL"))
GOOD, NEVER = 200, 5_000
HERD, DYING, PER_SWEEP = (100_000 if FULL else 10_000), 700, 500
MARK = timedelta(minutes=10)
_CROWD = """
INSERT INTO qbo.connections (app_id, realm_id, realm_hash, refresh_token, next_refresh_at, last_outcome, not_before)
SELECT %(app)s, 'x', decode(lpad(to_hex(n), 32, '0'), 'hex'), 'x', now() - interval '30 days', %(outcome)s,
       now() + %(pause)s::interval
FROM generate_series(%(first)s::int, %(first)s::int + %(count)s::int - 1) n
"""
# Neither the order of ids nor that of the table is that of urgency.
_HERD = """
INSERT INTO qbo.connections (app_id, realm_id, realm_hash, refresh_token, next_refresh_at, refresh_expires_at)
SELECT %(app)s, 'x', decode(lpad(to_hex(n), 32, '0'), 'hex'), 'x', now() - make_interval(secs => n * 7919 %% %(herd)s),
       now() + CASE WHEN n %% (%(herd)s / %(dying)s) = 0 THEN make_interval(secs => 8 * (%(herd)s - n))
                  ELSE '99 days' END
FROM generate_series(1, %(herd)s) n
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
    assert dispatch.gates(fleet.db, keys) == dispatch.Gates(usable=(app_id,))


def test_row_31_a_fleet_that_is_due_at_once_goes_at_the_rate_and_the_most_urgent_first(
    fleet: Fleet, refresher: Refresher, capsys: pytest.CaptureFixture[str]
) -> None:
    # Fails without the budget of a sweep, without `_publish_urgent`, and without its ORDER BY: seen.
    app_id = fleet.connect()[0].app_id
    fleet.db.execute("DELETE FROM qbo.connections")
    fleet.db.execute(_HERD, {"app": app_id, "herd": HERD, "dying": DYING})
    fleet.db.execute("ANALYZE qbo.connections")
    urgent = "WHERE refresh_expires_at < now() + interval '10 days' ORDER BY refresh_expires_at"
    dying, overdue = (
        [row.id for row in fleet.db.execute(f"SELECT id FROM qbo.connections {which}")]  # noqa: S608  # constants
        for which in (urgent, "ORDER BY next_refresh_at")
    )
    published: list[int] = []
    keys = (Keys(app_id, tuple(secret.secret_hash for secret in refresher.secrets[app_id])),)
    sweep = Sweep(fleet.db, keys, PER_SWEEP, HERD, timedelta(0), Pace(), MARK, lambda: 0, published.extend)
    for _ in range(3):  # in the third those that die soon no longer fill their half
        before, done = len(published), set(published)
        first = [each for each in dying if each not in done][: PER_SWEEP // 2]
        then = [each for each in overdue if each not in done | set(first)][: PER_SWEEP - len(first)]
        began = time.monotonic()
        assert dispatch_due(sweep).published == PER_SWEEP
        took_s = time.monotonic() - began
        assert published[before:] == first + then
    with capsys.disabled():
        sys.stdout.write(f"\n{HERD} due: a sweep of {PER_SWEEP} takes {1000 * took_s:.0f} ms\n")
    if FULL:
        began, large = time.monotonic(), replace(sweep, per_sweep=10_000)
        while (number := dispatch_due(large).published) == 10_000:
            pass
        took_s = time.monotonic() - began
        sys.stderr.write(f"\nand the other {HERD - 3 * PER_SWEEP} took {took_s:.1f} s, {number} in the last sweep\n")
        assert (len(published), len(set(published))) == (HERD, HERD)
