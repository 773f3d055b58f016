from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import redis

from worker.errors import ClientRejected, GrantRejected
from worker.policy import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.attempts import Attempts
    from tests.support.commands import Run
    from tests.support.fleet import Fleet
    from worker.runtime import Runtime


def preview(run: Run) -> dict[str, Any]:
    status, out, err = run("dry-run", "--json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    found["by"] = {}
    for group in found["groups"]:
        name = f"{group['reason']} {group['detail']}" if group["detail"] else group["reason"]
        found["by"][name] = found["by"].get(name, 0) + group["connections"]
    return found


def make_one_of_each(fleet: Fleet, one: Attempts) -> None:
    """Make two connections that would go, and one for each reason why not."""
    _, _, frozen, pausing, leased, doubtful, queued, later, chance, dead, gone, keyless, impossible = fleet.connect(13)
    fleet.update(frozen.id, "frozen = true")
    one.conclude(one.claimed(pausing.id), GrantRejected())
    one.claimed(leased.id)
    one.claimed(doubtful.id)
    fleet.update(doubtful.id, "in_doubt = true")
    fleet.update(queued.id, "queued_until = now() + interval '5 minutes'")
    fleet.update(later.id, "next_refresh_at = now() + interval '3 hours'")
    fleet.update(chance.id, "status = 'needs_reauth', next_refresh_at = now() + interval '2 hours'")
    fleet.update(dead.id, "status = 'needs_reauth', next_refresh_at = NULL")
    fleet.update(gone.id, "status = 'disconnected', next_refresh_at = NULL")
    fleet.update(impossible.id, "lease_id = gen_random_uuid(), leased_until = '2090-01-01'")
    fleet.db.execute(
        "WITH other AS (INSERT INTO qbo.apps (environment, client_id) VALUES ('sandbox', 'without keys') RETURNING id)"
        " UPDATE qbo.connections SET app_id = other.id FROM other WHERE connections.id = %(id)s",
        {"id": keyless.id},
    )


def test_every_connection_is_told_once_and_the_numbers_add_up(run: Run, fleet: Fleet, one: Attempts) -> None:
    make_one_of_each(fleet, one)
    found = preview(run)
    assert found["by"] == {
        "published": 2,
        "frozen": 1,
        "paused invalid_grant": 1,
        "under_way": 1,
        "in_doubt": 1,
        "queued": 1,
        "not_due": 1,
        "second_chance": 1,
        "needs_reauth": 1,
        "disconnected": 1,
        "no_keys": 1,
        "impossible_lease": 1,
    }
    assert (found["would_publish"], found["connections"]) == (2, 13)
    status, out, _ = run("dry-run")
    assert status == 0
    assert out.startswith("The next sweep would publish 2 of 13 connections (at most 1,200).\n")
    assert "pause after invalid_grant; first in 15 min" in out
    assert "not due yet; first in 3 h" in out
    assert "1 of sandbox without keys" in out


def test_it_tells_what_the_sweep_then_does(
    run: Run, fleet: Fleet, one: Attempts, environment: dict[str, str], start_worker: Callable[..., Runtime]
) -> None:
    from worker.dispatch import Sweep, dispatch_due  # noqa: PLC0415  # beside what it is compared with

    make_one_of_each(fleet, one)
    fleet.connect(30)
    foretold = preview(run)
    here = start_worker(**environment)
    published: list[int] = []
    minute = timedelta(minutes=1)
    sweep = Sweep(here.db, here.keys, 1200, 1200, minute, Pace(), 10 * minute, lambda: 0, published.extend)
    assert dispatch_due(sweep).published == foretold["would_publish"] == 32
    assert preview(run)["by"]["queued"] == 33


def test_the_rate_and_the_slow_start_cap_it(
    run: Run, fleet: Fleet, environment: dict[str, str], monkeypatch: Any
) -> None:
    del environment
    monkeypatch.setenv("QBO_REFRESH_PER_MINUTE", "20")
    fleet.connect(30)
    assert preview(run)["by"] == {"published": 20, "over_the_rate": 10}
    fleet.db.execute("UPDATE qbo.control SET thawed_at = now()")
    found = preview(run)
    assert found["by"] == {"published": 2, "over_the_rate": 28}
    assert "(at most 2, 20 once the fleet has started)" in run("dry-run")[1]


def test_a_blocked_app_sends_one_probe_and_a_throttled_one_nothing(run: Run, fleet: Fleet, one: Attempts) -> None:
    connected = fleet.connect(5)
    claim = one.claimed(connected[0].id)
    secret = one.by.secrets[claim.app_id][0]
    one.by.store.block(claim, secret_hash=secret.secret_hash, reason="invalid_client", at_once=True)
    one.conclude(claim, ClientRejected("invalid_client"))
    assert preview(run)["by"] == {"blocked": 4, "paused invalid_client": 1}
    fleet.let_pass(timedelta(seconds=61))
    assert preview(run)["by"] == {"published probe": 1, "blocked": 4}
    fleet.db.execute("UPDATE qbo.apps SET throttled_until = now() + interval '5 minutes'")
    assert preview(run)["by"] == {"throttled": 5}


def test_what_stops_a_sweep_as_a_whole_is_told(run: Run, fleet: Fleet, redis_url: str) -> None:
    fleet.connect(2)
    fleet.db.execute("UPDATE qbo.control SET frozen = true")
    assert preview(run)["by"] == {"everything_frozen": 2}
    fleet.update(None, "next_refresh_at = now() + interval '3 hours'")
    out = run("dry-run")[1]
    assert out.startswith("Everything is frozen: no sweep publishes anything until `qbo-refresh thaw --all`.\n")
    fleet.update(None, "next_refresh_at = now()")
    fleet.db.execute("UPDATE qbo.control SET frozen = false, system_identifier = 'another'")
    assert preview(run)["by"] == {"another_database": 2}
    fleet.db.execute("DELETE FROM qbo.control")
    assert preview(run)["by"] == {"no_control_row": 2}
    fleet.db.execute("INSERT INTO qbo.control DEFAULT VALUES")
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("qbo.sweep", *range(2401))
    assert preview(run)["by"] == {"queue_full": 2}
