"""What a hand, a restore or a lost key leaves behind, as running workers and a person at the command line meet it."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.support.processes import Programs, eventually
from worker.queues import ADHOC, REFRESH_CONNECTION

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from tests.support.commands import Run
    from tests.support.fleet import Fleet

PACE = {"LEASE_SECONDS": "6", "SWEEP_SECONDS": "0.5", "BACKOFF_SECONDS": "1", "CONFIRM_AFTER_SECONDS": "2"}
OF_NOBODY = 10**9


def test_a_lease_without_end_a_ledger_of_nobody_and_copies_that_do_not_open_are_named_and_stop_nobody(
    programs: Programs, fleet: Fleet, valkey: redis.Redis, run: Run
) -> None:
    # Fails without the `except` of `_decode` (the refresh breaks), and without `shorten_impossible_leases`.
    leased, doubtful, *well = fleet.connect(6)
    fleet.update(
        leased.id,
        "lease_id = gen_random_uuid(), leased_until = '2090-01-01', attempt_began_at = now(),"
        " next_refresh_at = now() - interval '2 hours'",
    )
    fleet.update(doubtful.id, "in_doubt = true")
    # One is no entry at all, the other one is sealed for another connection.
    foreign, fingerprint = fleet.seal(leased.id, leased.refresh_token), fleet.fingerprint(leased.refresh_token)
    entry = [str(uuid4()), *(base64.b64encode(value).decode() for value in (foreign, fingerprint))]
    valkey.rpush(f"qbo:escrow:{doubtful.id}:1:1", "rubbish", json.dumps(entry))
    fleet.db.execute(
        "INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, token_version, trigger, began_at, outcome)"
        " VALUES (gen_random_uuid(), %(id)s, 1, 'sweep', now(), 'abandoned')",
        {"id": OF_NOBODY},
    )
    status, out, _ = run("doctor", "--offline")
    assert status == 1
    assert f"1 leases end more than an hour from now, which none can (connections {leased.id})" in " ".join(out.split())
    assert "2 of 2 sampled copies in the escrow do not open" in " ".join(out.split())
    worker, beat = programs.ready_worker(variables=PACE), programs.beat(variables=PACE)
    eventually(lambda: all(fleet.row(each.id).token_version == 2 for each in (doubtful, *well)))
    for said in ("lease.impossible", "escrow.entry_unreadable", "candidate.unreadable"):
        worker.wait_for(said)
    row = fleet.row(leased.id)
    assert (row.token_version, row.is_leased) == (1, True), "whoever may hold it has an hour"
    left = fleet.db.execute("SELECT max(leased_until - now()) AS left FROM qbo.connections").one().left
    assert left <= timedelta(hours=1)
    assert all(fleet.holds_the_live_token(each) for each in (doubtful, *well))
    assert fleet.statuses([leased, doubtful, *well]) == {"active": 6}
    assert fleet.events() == ["row.unreadable"], "of the copy; the entry that is none is in the log alone"
    assert (worker.is_running, beat.is_running, worker.says("Traceback")) == (True, True, [])
    status, out, _ = run("explain", str(OF_NOBODY))
    assert (status, "This is what the ledger has of it." in " ".join(out.split())) == (0, True)


def test_workers_without_a_control_row_send_nothing_say_so_and_go_on_when_it_is_there_again(
    programs: Programs, fleet: Fleet, another_app: Celery, run: Run
) -> None:
    # Fails with a claim that does not join the control row.
    connected = fleet.connect(3)
    fleet.db.execute("DELETE FROM qbo.control")
    worker, beat = programs.ready_worker(variables=PACE), programs.beat(variables=PACE)
    worker.wait_for("sweep.skipped.*no_control_row")
    asked = another_app.send_task(REFRESH_CONNECTION, args=[connected[0].id], kwargs={"max_age": 0}, queue=ADHOC)
    assert asked.get(timeout=30)["reason"] == "no_control_row"
    assert "control is missing" in run("doctor", "--offline")[1]
    assert "control is missing" in run("explain", str(connected[0].id))[1]
    assert fleet.simulator.check().calls == 0
    assert fleet.statuses(connected) == {"active": 3}
    assert run("adopt-database", "--yes")[0] == 0
    eventually(lambda: all(fleet.row(each.id).token_version == 2 for each in connected))
    assert all(fleet.holds_the_live_token(each) for each in connected)
    assert (worker.is_running, beat.is_running, worker.says("Traceback")) == (True, True, [])
