"""`hold`, `resume`, `events` and `prune` as processes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import ROOT, eventually
from tests.system.test_cli_operator import CLI, ended
from worker import holding
from worker.store import outbox

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fleet import Fleet


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Any:
    """Give a function that runs a command and returns what came of it."""

    def command(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return ended((*CLI, *arguments), environment | changes, tmp_path)

    return command


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hold_and_resume_say_what_they_changed_and_are_told_to_the_host(fleet: Fleet, run: Any) -> None:
    made, other = fleet.connect(2, label="eu")
    name = str(made.id)
    assert run("hold", name, "--note", "moving").stdout == "The syncs of 1 connection are held.\n"
    assert lines(run("hold", "--label", "eu", "--json")) == [{"changed": 1, "hold": "operator", "stands": True}]
    assert run("hold", name).stdout == "Nothing changed: held already.\n"
    fleet.db.execute("INSERT INTO qbo.sync_holds VALUES (%(id)s, 'reauth')", {"id": other.id})
    assert lines(run("resume", "--label", "eu", "--json")) == [
        {"changed": 2, "hold": "operator", "stands": False, "still_held": 1}
    ]
    assert run("resume", name).stdout == "Nothing changed: no such hold.\n"
    assert (fleet.events(made.id), fleet.events(other.id)) == (["sync.paused", "sync.resumed"], ["sync.paused"])


@pytest.mark.parametrize(
    "arguments", [("hold",), ("hold", "1", "--label", "x"), ("resume", "0"), ("resume", "--label", "x")]
)
def test_hold_and_resume_want_one_connection_or_one_label(run: Any, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")


def test_events_are_shown_as_the_host_is_given_them(fleet: Fleet, run: Any) -> None:
    first, second = fleet.connect(2, label="eu\x1b[31m")
    holding.hold(fleet.db, [first.id, second.id])
    fleet.db.execute("INSERT INTO qbo.outbox (type, payload) VALUES ('app.blocked', '{\"reason\": \"x\"}')")
    shown = lines(run("events", "--json"))
    assert [event["type"] for event in shown] == ["sync.paused", "sync.paused", "app.blocked"]
    assert set(shown[0]) == {
        "id", "type", "connection_id", "external_ids", "label", "sequence", "created_at", "payload",
        "delivered_at", "delivered_to",
    }  # fmt: skip
    ids = [event["id"] for event in shown]
    assert [event["id"] for event in lines(run("events", "--json", "--after", str(ids[0]), "--limit", "1"))] == [ids[1]]
    assert [event["id"] for event in lines(run("events", "--json", "--limit", "1"))] == [ids[2]], "the newest"
    assert [event["id"] for event in lines(run("events", "--json", "--connection", str(first.id)))] == [ids[0]]
    assert [event["id"] for event in lines(run("events", "--json", "--type", "app.blocked"))] == [ids[2]]
    outbox.mark_delivered(fleet.db, ids[:2], task="host.on_event")
    assert [event["id"] for event in lines(run("events", "--json", "--undelivered"))] == [ids[2]]
    table = run("events").stdout
    assert "eu�[31m" in table
    assert table.splitlines()[1].endswith("to host.on_event")
    assert table.splitlines()[3].endswith("waits")


def test_an_event_is_sent_again_where_events_are_delivered(fleet: Fleet, run: Any) -> None:
    (made,) = fleet.connect()
    holding.hold(fleet.db, [made.id])
    (event,) = outbox.read(fleet.db, outbox.Wanted(), limit=9)
    outbox.mark_delivered(fleet.db, [event.id], task="host.on_event")
    refused = run("events", "resend", str(event.id))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "EVENT_TASK is not set" in refused.stderr
    plain = run("events", "resend", str(event.id), EVENT_TASK="host.on_event")
    assert plain.stdout == "1 event is sent again by the workers.\n"
    done = run("events", "resend", str(event.id), "999999", "--json", EVENT_TASK="host.on_event")
    assert (done.returncode, lines(done)) == (1, [{"resent": [event.id], "unknown": [999999]}])
    assert outbox.waiting(fleet.db, limit=9)[0].id == event.id


def test_events_are_followed_as_they_come_even_if_one_commits_late(
    fleet: Fleet, environment: dict[str, str], tmp_path: Path
) -> None:
    # Fails if only events above the last one shown are read: seen.
    first, second = fleet.connect(2)
    holding.hold(fleet.db, [first.id])
    (shown,) = outbox.read(fleet.db, outbox.Wanted(), limit=9)
    log = tmp_path / "followed"
    with log.open("w") as output:
        following = subprocess.Popen(
            (*CLI, "events", "--json", "--follow"),
            env={"PYTHONPATH": str(ROOT), **environment},
            cwd=tmp_path,
            stdout=output,
        )
    try:
        eventually(lambda: log.read_text().count("\n") == 1)
        fleet.db.execute("INSERT INTO qbo.outbox (id, type) VALUES (%(id)s, 'guard.tripped')", {"id": shown.id + 50})
        eventually(lambda: log.read_text().count("\n") == 2)
        holding.hold(fleet.db, [second.id])
        eventually(lambda: log.read_text().count("\n") == 3)
    finally:
        following.kill()
        following.wait()
    assert len({json.loads(line)["id"] for line in log.read_text().splitlines()}) == 3


def test_prune_says_what_would_go_and_keeps_what_is_needed(fleet: Fleet, run: Any) -> None:
    (made,) = fleet.connect()
    fleet.db.execute(
        "INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, trigger, began_at, outcome)"
        " SELECT gen_random_uuid(), %(id)s, 'sweep', now() - make_interval(days => n), 'refreshed'"
        " FROM generate_series(1, 199) n",
        {"id": made.id},
    )
    would = {"dry_run": True, "ledger": 80, "candidates": 0, "events": 0}
    assert lines(run("prune", "--dry-run", "--json")) == [would]
    assert run("prune", "--keep", "ledger=150").stdout == "Deleted 50 attempts, 0 candidates, 0 events.\n"
    assert lines(run("prune", "--json"))[0]["ledger"] == 30
    for wrong in ("ledger=30", "ledger", "tokens=5", "candidates=-1"):
        done = run("prune", "--keep", wrong)
        assert (done.returncode, done.stdout) == (2, ""), wrong
