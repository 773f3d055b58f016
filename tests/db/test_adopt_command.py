from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import SecretStr

from worker import doctor, health
from worker.doctor import State
from worker.store import control

if TYPE_CHECKING:
    from tests.support.attempts import Attempts
    from tests.support.commands import Run
    from tests.support.fleet import Fleet
    from worker.settings import Settings

LEASE = timedelta(seconds=60)


def check(settings: Settings) -> doctor.Check:
    return {each.name: each for each in doctor.examine(settings, offline=True)}["same database"]


def elsewhere(fleet: Fleet) -> None:
    """Let the control row know another cluster than this."""
    control.recognise(fleet.db, lease=LEASE)
    fleet.db.execute("UPDATE qbo.control SET system_identifier = '7000000000000000001'")


def test_what_has_not_changed_is_not_adopted(run: Run, fleet: Fleet) -> None:
    control.recognise(fleet.db, lease=LEASE)
    status, out, err = run("adopt-database", "--yes")
    assert (status, out) == (2, "")
    assert err == "qbo-refresh: Nothing to adopt: this is the database that the control row knows.\n"
    assert fleet.db.execute("SELECT epoch FROM qbo.control").one().epoch == 1


def test_another_cluster_is_a_problem_until_it_is_adopted(
    run: Run, fleet: Fleet, one: Attempts, settings: Settings
) -> None:
    (connected,) = fleet.connect()
    elsewhere(fleet)
    assert check(settings).state is State.WRONG
    assert "7000000000000000001" in check(settings).text
    status, out, _ = run("status", "--check")
    assert (status, "another PostgreSQL cluster" in out) == (1, True)
    assert one.claim(connected.id) is None
    assert "the database has changed" in run("explain", str(connected.id))[1]
    status, out, _ = run("adopt-database", "--yes", "--json")
    adopted = json.loads(out)
    assert (status, adopted["system_identifier_before"], adopted["epoch"]) == (0, "7000000000000000001", 2)
    assert "quiet" in json.loads(run("status", "--json")[1])["database"]
    assert "nothing is sent for one lease" in check(settings).text
    fleet.let_pass(timedelta(seconds=61))
    assert one.claim(connected.id) is not None
    assert "epoch 2, since " in check(settings).text


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
def test_it_asks_and_takes_nothing_but_yes(
    run: Run, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    import io  # noqa: PLC0415  # of this test alone

    elsewhere(fleet)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    status, out, _ = run("adopt-database")
    assert status in {2, 130}
    assert "system 7000000000000000001" in out
    assert fleet.db.execute("SELECT epoch FROM qbo.control").one().epoch == 1


def test_a_server_that_hides_what_it_is_says_so_and_sends(
    run: Run, own_database_url: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    hidden: Any = "SELECT NULL::text", "SELECT NULL::integer"
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        for name, body in zip(("system_identifier", "timeline"), hidden, strict=True):
            kind = body.rpartition(":")[2]
            connection.execute(
                f"CREATE OR REPLACE FUNCTION qbo.{name}() RETURNS {kind} LANGUAGE sql STABLE AS '{body}'".encode()
            )
    hiding = settings.model_copy(update={"database_url": SecretStr(own_database_url)})
    made = check(hiding)
    assert made.state is State.OK
    assert "does not tell its system identifier and its timeline: neither a copy nor a failover" in made.text
    monkeypatch.setenv("QBO_DATABASE_URL", own_database_url)
    assert run("status", "--check") == (0, "All is well.\n", "")
    assert run("adopt-database", "--yes")[0] == 2


def test_status_tells_of_a_stall_a_second_writer_and_a_changed_database(
    run: Run, fleet: Fleet, settings: Settings
) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "next_refresh_at = now() + interval '1 hour', second_writer_at = now()")
    fleet.db.execute("UPDATE qbo.control SET epoch_since = now() - interval '2 hours'")
    fleet.db.execute("UPDATE qbo.apps SET stalled_since = now() - interval '3 hours'")
    status, out, _ = run("status", "--check")
    assert status == 1
    assert "Due connections have not been refreshed for 3 h" in out
    assert "Somebody else refreshes 1 of these grants, too" in out
    assert f"{connected.id}\t" in run("list", "--second-writer")[1]
    told = run("status")[1]
    assert "changed 2 h ago" in told or "changed 120 min ago" in told
    found = json.loads(run("status", "--json")[1])
    assert found["apps"][0]["verdicts_wait_until"] is not None
    fleet.update(connected.id, "second_writer_at = now() - interval '8 days'")
    problems = health.problems(health.take(fleet.db, settings))
    assert len(problems) == 1
