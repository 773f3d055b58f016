"""`refresh` for many connections: brought forward, at the pace of the sweeps."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from worker.store import totals

if TYPE_CHECKING:
    from tests.support.commands import Run
    from tests.support.fleet import Connected, Fleet

HOURS = "next_refresh_at = now() + interval '12 hours'"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"REFRESH_PER_MINUTE": "2"}


def due_in_minutes(fleet: Fleet, *connected: Connected) -> list[int | None]:
    now = fleet.db.execute("SELECT now() AS now").one().now
    due = [fleet.row(each.id).due_at for each in connected]
    return [None if each is None else round((each - now) / timedelta(minutes=1)) for each in due]


def test_those_never_refreshed_are_due_at_the_rate_of_the_sweeps_and_none_later_than_planned(
    fleet: Fleet, run: Run
) -> None:
    # Seen to fail: there was no such option. Due all at once, a large fleet would be overdue, and say so.
    *imported, refreshed = fleet.connect(6)
    fleet.update(None, HOURS)
    fleet.update(refreshed.id, "last_refreshed_at = now() - interval '1 hour'")
    fleet.update(imported[4].id, "next_refresh_at = now() + interval '1 minute'")
    status, out, _ = run("refresh", "--never-refreshed", "--yes")
    assert (status, out) == (0, "5 connections are due within 3 min now: the sweeps refresh 2 a minute.\n")
    assert due_in_minutes(fleet, *imported, refreshed) == [0, 1, 1, 2, 0, 720]


def test_what_was_brought_forward_keeps_its_place_when_more_is(fleet: Fleet, run: Run) -> None:
    # Seen to fail without the others in the plan: each command began with the minute that was full already.
    theirs, ours = fleet.connect(6, label="eu"), fleet.connect(4, label="us")
    fleet.update(None, HOURS)
    for label in ("eu", "eu", "us", "eu", "us"):
        assert run("refresh", "--label", label, "--yes")[0] == 0
    assert due_in_minutes(fleet, *theirs, *ours) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_what_the_sweeps_refresh_anyway_goes_first(fleet: Fleet, run: Run) -> None:
    # Seen to fail with the whole rate for what is brought forward: the others were late by as much.
    *overdue, soon = fleet.connect(4, label="eu")
    brought = fleet.connect(5, label="us")
    fleet.update(None, HOURS)
    for each in overdue:
        fleet.update(each.id, "next_refresh_at = now() - interval '1 hour'")
    fleet.update(soon.id, "next_refresh_at = now() + interval '150 seconds'")
    assert "5 connections are due within 5 min now" in run("refresh", "--label", "us", "--yes")[1]
    assert due_in_minutes(fleet, *brought) == [1, 2, 2, 3, 4]


def test_what_is_due_and_only_rests_is_not_counted(fleet: Fleet, run: Run) -> None:
    # Seen to fail with `due_at > now()`: thousands whose key is missing were "due within 5 min now".
    rests, planned = fleet.connect(2)
    fleet.update(rests.id, "not_before = now() + interval '1 hour'")
    fleet.update(planned.id, HOURS)
    assert "1 connection is due within 1 min now" in run("refresh", "--all", "--yes")[1]
    assert due_in_minutes(fleet, rests, planned) == [60, 0]


def test_all_or_a_label_are_brought_forward_but_what_must_wait_or_rest(fleet: Fleet, run: Run) -> None:
    mine, frozen, pausing, leased, suspect, dead, gone = fleet.connect(7, label="eu")
    (other,) = fleet.connect(label="us")
    fleet.update(None, HOURS)
    fleet.update(frozen.id, "frozen = true")
    fleet.update(pausing.id, "not_before = now() + interval '30 minutes'")
    fleet.update(leased.id, "lease_id = gen_random_uuid(), leased_until = now() + interval '1 minute'")
    fleet.update(suspect.id, "status = 'suspect'")
    fleet.update(dead.id, "status = 'needs_reauth'")
    fleet.update(gone.id, "status = 'disconnected', next_refresh_at = NULL")
    assert run("refresh", "--label", "eu", "--yes")[0] == 0
    assert due_in_minutes(fleet, mine, frozen, pausing, leased, suspect, dead, gone, other) == [
        0, 720, 30, 720, 720, 720, None, 720,
    ]  # fmt: skip
    assert json.loads(run("refresh", "--all", "--yes", "--json")[1]) == {
        "connections": 1,
        "within_seconds": 60,
        "dry_run": False,
    }
    assert due_in_minutes(fleet, other) == [0]


def test_a_dry_run_says_how_many_and_how_long_and_changes_nothing(fleet: Fleet, run: Run) -> None:
    made = fleet.connect(3)
    fleet.update(None, HOURS)
    assert run("refresh", "--all", "--dry-run") == (0, "3 connections would be due within 2 min.\n", "")
    assert json.loads(run("refresh", "--all", "--dry-run", "--json")[1])["connections"] == 3
    assert due_in_minutes(fleet, *made) == [720] * 3


def test_without_a_yes_nothing_changes(fleet: Fleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = fleet.connect()
    fleet.update(None, HOURS)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    status, out, _ = run("refresh", "--all")
    assert (status, due_in_minutes(fleet, made)) == (130, [720])
    assert "1 connection would be due within 1 min." in out


def test_where_nothing_waits_nothing_is_asked(fleet: Fleet, run: Run) -> None:
    fleet.connect()
    assert run("refresh", "--all") == (0, "Nothing changed: none of them is planned for later.\n", "")


def test_a_fleet_brought_forward_is_not_overdue(fleet: Fleet, run: Run) -> None:
    fleet.connect(400)
    fleet.update(None, HOURS)
    assert run("refresh", "--all", "--yes")[0] == 0
    fleet.db.execute("UPDATE qbo.connections SET next_refresh_at = next_refresh_at - interval '130 minutes'")
    overdue = sum(total.overdue for total in totals.totals(fleet.db, ()))
    assert overdue < 30, "only those that the sweeps would have had ten minutes for"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("1", "--all"),
        ("1", "--label", "eu"),
        ("1", "--never-refreshed"),
        ("1", "--dry-run"),
        ("--all", "--max-age", "60"),
        ("--all", "--label", "eu"),
    ],
)
def test_one_connection_or_many_are_named_and_not_both(fleet: Fleet, run: Run, arguments: tuple[str, ...]) -> None:
    fleet.connect(label="eu")
    status, out, _ = run("refresh", *arguments)
    assert (status, out) == (2, "")
