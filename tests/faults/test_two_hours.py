"""PostgreSQL away for two hours with a deploy in between: worker processes, a real line that is cut, a real Valkey."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery

from intuit_simulator import fingerprint
from tests.support.processes import Programs, eventually
from tests.support.proxy import FaultProxy
from worker.queues import ADHOC, REFRESH_CONNECTION, REFRESH_DUE, SWEEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.fleet import Connected, Fleet
    from worker.embedded import Servers

AWAY = timedelta(hours=2)
# A POST may take 10 s then, and a worker that is stopped gives its saves 12.
LEASE = {"LEASE_SECONDS": "30"}


@pytest.fixture
def programs(environment: dict[str, str], tmp_path: Path, session_servers: Servers) -> Iterator[Programs]:
    """Give the means to start Celery's processes."""
    running = Programs(tmp_path, environment, session_servers.watch, forked=True)
    yield running
    running.close()


@pytest.fixture
def postgres(database_url: str) -> Iterator[FaultProxy]:
    """Give the workers' line to PostgreSQL; the test has its own, to let the time pass."""
    with FaultProxy(database_url) as line:
        yield line


def let_two_hours_pass(fleet: Fleet, valkey: redis.Redis) -> None:
    """Move the tables, Intuit's clock and what is left of the copies' lives."""
    fleet.let_pass(AWAY, at_intuit=True)
    for key in valkey.scan_iter("qbo:escrow:*"):
        left = valkey.ttl(key)
        assert isinstance(left, int)
        valkey.expire(key, left - int(AWAY.total_seconds()))


def presented(fleet: Fleet) -> list[str | None]:
    return [call.presented for call in fleet.simulator.journal() if call.endpoint == "token"]


def assert_adopted(fleet: Fleet, connected: Sequence[Connected]) -> None:
    """Each has its live token out of the escrow, its customer was not bothered, the old token was not shown again."""
    for each in connected:
        assert fleet.holds_the_live_token(each)
        assert (fleet.state(each).refreshes, fleet.state(each).refusals) == (2, 0)
        (candidate,) = fleet.candidates(each.id)
        assert (candidate.source, candidate.settled_at is not None) == ("escrow", True)
        assert presented(fleet).count(fingerprint(each.refresh_token)) == 1
        assert (fleet.row(each.id).token_version, fleet.row(each.id).in_doubt) == (2, False)
        assert (fleet.events(each.id), fleet.holds(each.id)) == ([], set())
        assert fleet.outcomes(each.id) == [("abandoned", None), ("refreshed", None)]


@pytest.mark.timeout(120)
def test_row_23_tokens_received_before_two_hours_without_postgresql_and_a_deploy_are_adopted_afterwards(
    programs: Programs, fleet: Fleet, postgres: FaultProxy, redis_url: str
) -> None:
    # Fails with an escrow that keeps nothing, keeps it for an hour, or is not asked: seen, the six are never refreshed
    # again; and with a stop that waits for PostgreSQL: seen, the worker does not end.
    connected, other = fleet.connect(6), fleet.connect()
    swept, asked = connected[:3], connected[3:]
    variables = {**LEASE, "DATABASE_URL": postgres.url}
    ending = programs.ready_worker(queues=[SWEEP], variables=variables)
    dying = programs.ready_worker(queues=[ADHOC], variables=variables)
    held = fleet.simulator.fault("freeze")
    with redis.Redis.from_url(redis_url) as valkey, Celery("a host", broker=redis_url, set_as_current=False) as host:
        for each in swept:
            host.send_task(REFRESH_DUE, args=[each.id], queue=SWEEP)
        for each in asked:
            host.send_task(REFRESH_CONNECTION, args=[each.id], queue=ADHOC)
        eventually(lambda: len(fleet.simulator.in_flight()) == len(connected))
        postgres.refuse()
        postgres.cut()
        fleet.simulator.clear_fault(held)
        eventually(lambda: len(list(valkey.scan_iter("qbo:escrow:*"))) == len(connected))
        ending.wait_for("save.repeating")
        dying.wait_for("save.repeating")

        ending.terminate()
        dying.kill()
        assert ending.exit_code() == 0, ending.output()
        new = programs.worker(variables=variables)
        new.wait_for("PostgreSQL at DATABASE_URL cannot be reached: .+ Waiting for it")
        programs.beat(variables={"SWEEP_SECONDS": "0.5"})
        let_two_hours_pass(fleet, valkey)
        assert [fleet.row(each.id).token_version for each in (*connected, *other)] == [1] * 7, "nothing was saved"
        assert fleet.simulator.check().refreshes == len(connected), "and nothing sent"

        postgres.heal()
        eventually(lambda: all(fleet.row(each.id).token_version == 2 for each in (*connected, *other)))
    eventually(lambda: fleet.statuses([*connected, *other]) == {"active": 7})
    assert_adopted(fleet, connected)
    assert fleet.events() == []
    assert new.is_running
