"""Real worker processes that are stopped with SIGSTOP in mid-refresh, or whose clock is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Program, Programs, eventually
from worker import clock
from worker.queues import ADHOC, REFRESH_CONNECTION, REFRESH_DUE, SWEEP

if TYPE_CHECKING:
    from pathlib import Path

    from celery import Celery

    from tests.support.fleet import Connected, Fleet

PACE = {"LEASE_SECONDS": "3", "BACKOFF_SECONDS": "1", "CONFIRM_AFTER_SECONDS": "60"}  # a deadline of 1 s


def frozen_after_sending(programs: Programs, fleet: Fleet, another_app: Celery, connected: Connected) -> Program:
    """Return a worker that was stopped while Intuit had its call; the answer lies in its kernel by now."""
    slow = fleet.simulator.fault("latency", delay=0.5)
    # More than one read of the socket takes.
    fleet.simulator.fault("override", fields={"filler": 12_000 * "x"}, count=1)
    worker = programs.ready_worker(queues=[ADHOC], variables=PACE)
    another_app.send_task(REFRESH_CONNECTION, args=[connected.id], queue=ADHOC)
    eventually(fleet.simulator.in_flight, every_s=0.01)
    os.kill(worker.pid, signal.SIGSTOP)
    eventually(fleet.simulator.journal)
    fleet.simulator.clear_fault(slow)
    eventually(lambda: not fleet.row(connected.id).is_leased)
    return worker


@pytest.mark.parametrize("policy", ["grace", "strict", "reuse-revokes"])
def test_row_7_a_worker_frozen_past_its_lease_after_sending_finds_its_answer_when_it_goes_on(
    programs: Programs, fleet: Fleet, another_app: Celery, policy: str
) -> None:
    # Fails with a reader that does not look after its deadline at what has come: seen, the strict grant is lost.
    fleet.simulator.set_policy(policy)
    (connected,) = fleet.connect()
    worker = frozen_after_sending(programs, fleet, another_app, connected)
    assert fleet.simulator.check().answers == {"200": 1}
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: fleet.row(connected.id).token_version == 2)
    assert fleet.holds_the_live_token(connected)
    assert fleet.simulator.check().superseded == 0


def test_row_7_what_a_frozen_worker_brings_after_others_went_on_overwrites_nothing(
    programs: Programs, fleet: Fleet, another_app: Celery
) -> None:
    # Fails without the comparison of token_version in the save: seen, the row holds a token that is not the last one.
    fleet.simulator.set_policy("grace")
    (connected,) = fleet.connect()
    worker = frozen_after_sending(programs, fleet, another_app, connected)
    programs.ready_worker(queues=[SWEEP], variables=PACE)
    another_app.send_task(REFRESH_DUE, args=[connected.id], queue=SWEEP)
    eventually(lambda: fleet.row(connected.id).token_version == 2)
    newer = fleet.token(connected.id)
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: worker.says(r"refresh_connection\[.+ succeeded"))
    assert fleet.token(connected.id) == newer
    (candidate,) = fleet.candidates(connected.id)
    assert (candidate.source, candidate.base_version) == ("late_save", 1)
    another_app.send_task(REFRESH_DUE, args=[connected.id], queue=SWEEP)
    eventually(lambda: fleet.row(connected.id).token_version == 3)
    assert fleet.holds_the_live_token(connected)
    assert fleet.simulator.check().overlapping == 0


def test_row_7_a_verdict_waits_while_a_frozen_worker_may_hold_the_live_token(
    programs: Programs, fleet: Fleet, another_app: Celery
) -> None:
    (connected,) = fleet.connect()
    worker = frozen_after_sending(programs, fleet, another_app, connected)
    programs.ready_worker(queues=[SWEEP], variables=PACE)
    another_app.send_task(REFRESH_DUE, args=[connected.id], queue=SWEEP)
    eventually(lambda: fleet.row(connected.id).status == "suspect")
    assert fleet.events(connected.id) == []
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: fleet.row(connected.id).status == "active")
    assert fleet.holds_the_live_token(connected)
    assert fleet.holds(connected.id) == set()


# Shifts what Python code can see of the wall clock. C code keeps the true one: TLS and its certificates, the drivers.
_SHIFTED_CLOCK = """
import datetime, os, time
shift = float(os.environ["TEST_CLOCK_SHIFT_S"])
real_time, real_time_ns, Real = time.time, time.time_ns, datetime.datetime
time.time = lambda: real_time() + shift
time.time_ns = lambda: real_time_ns() + int(shift * 1e9)
class Kind(type(Real)):
    def __instancecheck__(cls, value):
        return isinstance(value, Real)
class Shifted(Real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return Real.now(tz) + datetime.timedelta(seconds=shift)
    @classmethod
    def utcnow(cls):
        return Real.utcnow() + datetime.timedelta(seconds=shift)
    @classmethod
    def today(cls):
        return cls.now()
datetime.datetime = Shifted
"""


@pytest.mark.parametrize("shift_s", [-3600, 400 * 86400])
def test_row_32_a_worker_and_a_beat_whose_clock_is_wrong_work_as_all_others(
    programs: Programs, fleet: Fleet, environment: dict[str, str], tmp_path: Path, shift_s: int
) -> None:
    # Fails with a claim by the worker's clock: seen, nothing is due for an hour.
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SHIFTED_CLOCK)
    path = os.pathsep.join((str(site), programs.python_path))
    wrong = {"SWEEP_SECONDS": "0.5", "PYTHONPATH": path, "TEST_CLOCK_SHIFT_S": str(shift_s), **PACE}
    connected = fleet.connect(10)
    fleet.simulator.fault("unavailable", realm_ids=connected[0].realm_id, count=1)
    fleet.simulator.revoke(connected[1].realm_id)
    worker, beat = programs.ready_worker(variables=wrong), programs.beat(variables=wrong)
    believed = datetime.strptime(worker.says(r"\[(.{19}),\d+: INFO")[0], "%Y-%m-%d %H:%M:%S").astimezone()
    assert abs((believed - clock.now()).total_seconds() - shift_s) < 300
    eventually(lambda: all(fleet.row(each.id).last_outcome == "refreshed" for each in (connected[0], *connected[2:])))
    assert fleet.statuses(connected) == {"active": 9, "suspect": 1}
    for each in (connected[0], *connected[2:]):
        row = fleet.row(each.id)
        assert fleet.holds_the_live_token(each)
        assert 19 * 3600 < row.due_in.total_seconds() <= 26 * 3600
        assert 3000 < (row.access_expires_at - row.token_obtained_at).total_seconds() <= 3600
    ledger = "SELECT count(*) AS n FROM qbo.refresh_attempts WHERE abs(extract(epoch FROM now() - began_at)) > 300"
    assert fleet.db.execute(ledger).one().n == 0, "by the database's clock"
    assert fleet.events() == []
    assert (worker.is_running, beat.is_running) == (True, True)
    doctor = subprocess.run(
        [sys.executable, "-m", "worker.cli", "doctor", "--offline"],
        env={"PATH": os.environ["PATH"], **environment, **wrong},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert doctor.returncode == 1, doctor.stderr
    apart = re.search(r"PostgreSQL's is (\d+) s (\w+): set this machine's clock", " ".join(doctor.stdout.split()))
    assert apart is not None, doctor.stdout
    assert abs(int(apart[1]) - abs(shift_s)) <= 1
    assert apart[2] == ("behind" if shift_s > 0 else "ahead")
