from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.errors import GrantRejected

if TYPE_CHECKING:
    from tests.support.attempts import Attempts
    from tests.support.commands import Run
    from tests.support.fleet import Connected, Fleet

CONFIRMED = timedelta(minutes=16)


def refused(one: Attempts, connected: list[Connected]) -> None:
    for each in connected:
        assert one.conclude(one.claimed(each.id), GrantRejected())


def shown(run: Run, *arguments: str) -> Any:
    status, out, err = run(*arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_an_open_guard_says_what_would_trip_it(run: Run, fleet: Fleet, one: Attempts) -> None:
    connected = fleet.connect(8)
    refused(one, connected[:2])
    found = shown(run, "guard")
    assert (found["state"], found["refused_within_an_hour"], found["threshold"]) == ("open", 2, 3.0)
    assert [each["id"] for each in found["waiting"]] == [each.id for each in connected[:2]]
    status, out, _ = run("guard")
    assert status == 0
    assert "open: confirmed refusals become verdicts" in out
    assert "2 within the hour; it trips with more than 3 of 8" in out


def test_the_threshold_is_a_whole_number(run: Run, fleet: Fleet) -> None:
    fleet.connect(70)  # 5 % are 3.5: with the fourth it trips
    found = shown(run, "guard")["threshold"]
    assert (found, type(found)) == (3, int)
    assert "it trips with more than 3 of 70" in run("guard")[1]


def test_a_tripped_guard_names_who_waits_and_a_release_lets_the_refused_ones_go(
    run: Run, fleet: Fleet, one: Attempts
) -> None:
    connected = fleet.connect(8)
    refused(one, connected[:5])
    fleet.witness()
    fleet.let_pass(CONFIRMED)
    refused(one, connected[:1])
    found = shown(run, "guard")
    assert found["state"] == "tripped"
    assert found["waiting"][0]["withheld"] == "guard"
    status, out, _ = run("guard", "--limit", "2")
    assert "TRIPPED" in out
    assert "waits for the guard" in out
    assert "and 3 more (--limit 5 shows all)" in out
    status, out, _ = run("status", "--check")
    assert status == 1
    assert "too many connections" in out

    status, out, _ = run("guard", "release", "--reason", "customers of one accountant left")
    assert status == 0
    assert "5 suspects are asked once more, within 15 minutes" in out
    fleet.let_pass(CONFIRMED)
    refused(one, connected[:1])
    assert fleet.row(connected[0].id).status == "needs_reauth"
    assert fleet.row(connected[1].id).status == "suspect", "a release alone marks nobody"
    assert "customers of one accountant left" in run("guard")[1]


def test_a_release_ends_the_wait_after_a_change_of_the_database(run: Run, fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute("UPDATE qbo.control SET epoch_since = now() - interval '1 hour'")
    refused(one, [connected])
    fleet.witness()
    fleet.let_pass(CONFIRMED)
    refused(one, [connected])
    assert fleet.attempts(connected.id)[-1].withheld == "epoch"
    assert shown(run, "guard")["verdicts_wait_until"] is not None
    assert shown(run, "status")["apps"][0]["verdicts_wait_until"] is not None
    assert shown(run, "guard", "release", "--reason", "looked at it") == {"released": 1, "suspects": 1}
    assert shown(run, "guard")["verdicts_wait_until"] is None
    fleet.let_pass(CONFIRMED)
    refused(one, [connected])
    assert fleet.row(connected.id).status == "needs_reauth"


def test_a_release_with_nothing_to_release_changes_nothing(run: Run, fleet: Fleet) -> None:
    fleet.connect()
    status, out, _ = run("guard", "release", "--reason", "x")
    assert (status, out) == (0, "Nothing is held back: every guard is open and no wait stands. Nothing changed.\n")
    assert fleet.db.execute("SELECT guard_released_at FROM qbo.apps").one().guard_released_at is None


def test_a_release_wants_a_reason_and_an_app_that_is_there(run: Run, fleet: Fleet) -> None:
    fleet.connect()
    assert run("guard", "release")[0] == 2
    status, _, err = run("guard", "release", "--reason", "x", "--app", "nobody")
    assert status == 2
    assert "No app has this client id" in err
