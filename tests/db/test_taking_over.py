from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.attempts import FORCED
from worker.attempt import Trigger
from worker.refresh import refresh

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.attempts import Attempts
    from tests.support.commands import Run
    from tests.support.fleet import Fleet
    from worker.refresh import Refresher

OLD, NEW = "2026-01-02T03:00:00Z", "2026-01-03T03:00:00Z"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "old.jsonl"


def write(file: Path, realm_id: str, refresh_token: str, obtained_at: str) -> str:
    line = {"realm_id": realm_id, "refresh_token": refresh_token, "token_obtained_at": obtained_at}
    file.write_text(json.dumps(line) + "\n")
    return str(file)


def only(fleet: Fleet) -> Any:
    return fleet.db.execute("SELECT * FROM qbo.connections").one()


def as_json(run: Run, *arguments: str) -> Any:
    status, out, err = run(*arguments, "--json")
    assert (status, err) == (0, ""), out
    return json.loads(out)


def test_the_last_word_goes_into_a_frozen_row_at_once_and_a_passing_refusal_presents_nothing_older(
    fleet: Fleet, refresher: Refresher, run: Run, file: Path
) -> None:
    # Fails without _REPLACE in worker/store/transfer/staging.py: seen, the grant dies of the replaced token.
    fleet.simulator.set_policy("reuse-revokes")
    grant = fleet.simulator.create_grant()
    as_json(run, "import", write(file, grant.realm_id, grant.refresh_token, OLD), "--frozen")
    fleet.update(None, "hard_expires_at = now() + interval '9 days', hard_expires_inferred = true")
    newer = fleet.rotated_elsewhere(grant.refresh_token)
    assert as_json(run, "import", write(file, grant.realm_id, newer, NEW), "--update")["updated"] == 1
    row = only(fleet)
    assert row.hard_expires_inferred, "the file does not say"
    assert (fleet.token(row.id), row.token_version, row.frozen, row.taken_over) == (newer, 2, True, False)
    assert fleet.candidates(row.id) == []
    assert as_json(run, "import", write(file, grant.realm_id, grant.refresh_token, OLD), "--update")["superseded"] == 1
    as_json(run, "thaw", str(row.id))
    fleet.simulator.fault("invalid_grant", count=1)
    assert refresh(refresher, row.id, trigger=Trigger.CLI, freshness=FORCED).outcome == "suspect"
    assert fleet.simulator.state(grant.realm_id).alive
    fleet.update(row.id, "not_before = NULL, attempt_began_at = NULL")
    assert refresh(refresher, row.id, trigger=Trigger.CLI, freshness=FORCED).outcome == "refreshed"
    assert fleet.token(row.id) == fleet.simulator.state(grant.realm_id).refresh_token


@pytest.mark.parametrize(
    "state",
    [
        "in_doubt = true",
        "lease_id = gen_random_uuid(), leased_until = now() - interval '1 s'",
        "status = 'suspect', suspect_since = now()",
        "frozen = false",
    ],
)
def test_where_it_is_not_certain_which_token_lives_the_last_word_is_a_candidate(
    fleet: Fleet, run: Run, file: Path, state: str
) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "frozen = true")
    fleet.update(connected.id, state)
    as_json(run, "import", write(file, connected.realm_id, "RT1-made-up-for-a-test", NEW), "--update")
    assert fleet.token(connected.id) == connected.refresh_token
    assert len(fleet.candidates(connected.id)) == 1


def names(run: Run, *arguments: str) -> tuple[int, str]:
    status, out, _ = run(*arguments)
    return status, out


def test_a_larger_share_only_adds_and_goes_with_a_label(fleet: Fleet, run: Run) -> None:
    many = fleet.connect(60, label="eu") + fleet.connect(40, label="us")
    fleet.update(None, "frozen = true, taken_over = false")

    def thawed() -> set[int]:
        return {row.id for row in fleet.db.execute("SELECT id FROM qbo.connections WHERE NOT frozen").all()}

    as_json(run, "thaw", "--share", "20", "--label", "eu")
    first = thawed()
    assert 0 < len(first) < 40
    assert first <= {each.id for each in many[:60]}
    as_json(run, "thaw", "--share", "20")
    second = thawed()
    assert first < second
    assert as_json(run, "thaw", "--share", "20")["changed"] == 0
    as_json(run, "thaw", "--share", "70")
    assert second < thawed()
    as_json(run, "thaw", "--share", "100")
    assert thawed() == {each.id for each in many}
    assert fleet.row(many[0].id).taken_over, "what is thawed is the worker's"


def test_what_is_taken_over_is_frozen_until_it_is_thawed_and_the_view_says_so(fleet: Fleet, run: Run) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "frozen = true, taken_over = false")

    def whose() -> tuple[bool, bool]:
        row = fleet.db.execute("SELECT taken_over, frozen FROM qbo.connection_status").one()
        return row.taken_over, row.frozen

    assert whose() == (False, True)
    assert "an old refresher has it" in " ".join(names(run, "explain", str(connected.id))[1].split())
    assert names(run, "take-over", "--share", "100") == (0, "1 connection taken over.\n")
    assert names(run, "take-over", str(connected.id)) == (0, "Nothing changed: taken over already.\n")
    assert whose() == (True, True)
    assert names(run, "hand-back", str(connected.id)) == (0, "1 connection handed back.\n")
    assert whose() == (False, True)
    assert names(run, "thaw", str(connected.id))[0] == 0
    assert whose() == (True, False)


def test_only_what_is_frozen_and_at_rest_is_handed_back(fleet: Fleet, run: Run, one: Attempts) -> None:
    running, leased, ready, gone = fleet.connect(4)
    one.claimed(leased.id)
    fleet.update(None, "frozen = id <> %(running)s", running=running.id)
    fleet.update(
        gone.id, "status = 'disconnected', refresh_token = NULL, refresh_token_fingerprint = NULL, token_version = 2"
    )
    status, out = names(run, "hand-back", "--share", "100", "--json")
    assert (status, json.loads(out)) == (1, {"changed": 1, "stay": [running.id, leased.id]})
    assert not fleet.row(ready.id).taken_over
    assert fleet.row(gone.id).taken_over


def test_an_export_leaves_out_what_an_old_refresher_has(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    ours, theirs = fleet.connect(2)
    fleet.update(theirs.id, "frozen = true, taken_over = false")
    status, out = names(run, "export", "back.jsonl", "--freeze")
    assert status == 0
    assert "1 left out: not taken over, so that an old refresher has their tokens." in out
    lines = [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()]
    assert [line["realm_id"] for line in lines] == [ours.realm_id]
    assert as_json(run, "export", "copy.jsonl", "--sealed")["exported"] == 2


@pytest.mark.parametrize(
    "arguments",
    [("take-over",), ("hand-back", "7", "--share", "10"), ("thaw", "--share", "0"), ("thaw", "7", "--all")],
)
def test_what_makes_no_sense_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_one_connection_that_is_thawed_slows_nobody_and_many_begin_slowly(fleet: Fleet, run: Run) -> None:
    first, *_ = fleet.connect(3, label="eu")
    control = "SELECT thawed_at IS NOT NULL AS slowly FROM qbo.control"
    as_json(run, "freeze", "--label", "eu")
    as_json(run, "thaw", str(first.id))
    assert not fleet.db.execute(control).one().slowly
    as_json(run, "thaw", "--label", "eu")
    assert fleet.db.execute(control).one().slowly
