from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.attempts import Attempts
from worker import pruning
from worker.pruning import Pruned, Pruning

if TYPE_CHECKING:
    from tests.support.fleet import Fleet
    from worker.refresh import Refresher


def work(fleet: Fleet, *, delivers: bool = True, dry_run: bool = False) -> Pruning:
    return Pruning(fleet.db, pruning.DEFAULTS, delivers, dry_run, progress=lambda _: None)


def attempts(fleet: Fleet, connection_id: int, *, days: int, until: int = 0) -> None:
    """Write an attempt for each of so many days, the last of them so many days ago."""
    fleet.db.execute(
        "INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, trigger, began_at, outcome)"
        " SELECT gen_random_uuid(), %(id)s, 'sweep', now() - make_interval(days => %(until)s + n), 'refreshed'"
        " FROM generate_series(0, %(days)s - 1) n",
        {"id": connection_id, "days": days, "until": until},
    )
    fleet.update(connection_id, "attempt_began_at = now() - make_interval(days => %(until)s)", until=until)


def ages(fleet: Fleet, connection_id: int) -> list[int]:
    """Return how many days old the connection's attempts are."""
    rows = fleet.db.execute(
        "SELECT round(extract(epoch FROM now() - began_at) / 86400)::int AS days FROM qbo.refresh_attempts"
        " WHERE connection_id = %(id)s ORDER BY 1",
        {"id": connection_id},
    )
    return [row.days for row in rows]


def rows(fleet: Fleet, table: str) -> int:
    return int(fleet.db.execute(f"SELECT count(*) AS n FROM qbo.{table}").one().n)  # noqa: S608  # a test's own text


def test_old_attempts_go_and_the_story_of_what_was_given_up_long_ago_stays(fleet: Fleet) -> None:
    # Fails if age is counted from now alone: seen.
    active, given_up, deleted = fleet.connect(3)
    attempts(fleet, active.id, days=300)
    attempts(fleet, given_up.id, days=200, until=400)
    attempts(fleet, deleted.id, days=150)
    fleet.db.execute("DELETE FROM qbo.connections WHERE id = %(id)s", {"id": deleted.id})
    counted = pruning.prune(work(fleet, dry_run=True))
    assert counted.rows["ledger"] > 0
    assert rows(fleet, "refresh_attempts") == 650
    assert pruning.prune(work(fleet)) == counted
    assert ages(fleet, active.id)[-1] in {119, 120}
    assert ages(fleet, given_up.id)[-1] in {519, 520}
    assert ages(fleet, deleted.id)[-1] in {119, 120}
    assert rows(fleet, "refresh_attempts") == 650 - counted.rows["ledger"]
    assert pruning.prune(work(fleet)) == Pruned()


def test_more_than_a_batch_goes_in_small_transactions(fleet: Fleet) -> None:
    (made,) = fleet.connect()
    fleet.db.execute(
        "INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, trigger, began_at, outcome)"
        " SELECT gen_random_uuid(), %(id)s + n / 5, 'sweep', now() - interval '200 days', 'refreshed'"
        " FROM generate_series(1, 2500) n",
        {"id": made.id},
    )
    seen: list[int] = []
    pruning.prune(Pruning(fleet.db, pruning.DEFAULTS, True, False, lambda done: seen.append(done.rows["ledger"])))  # noqa: FBT003
    assert rows(fleet, "refresh_attempts") == 0
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= pruning.BATCH


def test_a_candidate_that_is_untried_or_was_tried_lately_stays(fleet: Fleet, refresher: Refresher) -> None:
    one = Attempts(refresher)
    (made,) = fleet.connect()
    claim = one.claimed(made.id)
    for name in ("untried", "lately", "long-ago"):
        one.keep(claim, f"RT1-{name}-made-up")
    untried, lately, long_ago = (each.id for each in fleet.candidates(made.id))
    fleet.db.execute(
        "UPDATE qbo.candidates SET received_at = now() - interval '1 year', tried_at = now() -"
        " CASE id WHEN %(lately)s THEN interval '34 days' WHEN %(long_ago)s THEN interval '36 days' END",
        {"lately": lately, "long_ago": long_ago},
    )
    assert pruning.prune(work(fleet)).rows["candidates"] == 1
    assert [each.id for each in fleet.candidates(made.id)] == [untried, lately]


@pytest.mark.parametrize(("delivers", "gone"), [(True, 1), (False, 2)])
def test_an_event_that_waits_for_delivery_stays_as_long_as_there_is_one(
    fleet: Fleet, *, delivers: bool, gone: int
) -> None:
    fleet.db.execute(
        "INSERT INTO qbo.outbox (type, created_at, delivered_at) VALUES"
        " ('app.blocked', now() - interval '91 days', now()), ('app.blocked', now() - interval '91 days', NULL),"
        " ('app.blocked', now() - interval '89 days', now())"
    )
    assert pruning.prune(work(fleet, delivers=delivers)).rows["events"] == gone
    assert rows(fleet, "outbox") == 3 - gone
