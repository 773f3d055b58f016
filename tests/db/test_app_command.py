from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from qbo_refresh.status import Outcome
from worker import settings
from worker.attempt import Trigger
from worker.errors import ClientRejected
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.attempts import Attempts
    from tests.support.commands import Run
    from tests.support.fleet import Fleet
    from worker.runtime import Runtime


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"INTUIT_CLIENT_SECRET_PREVIOUS": "the-one-before"}


def blocked(fleet: Fleet, one: Attempts, which: int) -> None:
    """Let Intuit refuse one of the app's secrets."""
    claim = one.claimed(fleet.connect()[0].id)
    secret = one.by.secrets[claim.app_id][which]
    one.by.store.block(claim, secret_hash=secret.secret_hash, reason="invalid_client", at_once=True)
    one.conclude(claim, ClientRejected("invalid_client"))


def test_it_tells_which_secret_is_refused_and_how_many_still_used_the_old_one(
    run: Run, fleet: Fleet, one: Attempts
) -> None:
    blocked(fleet, one, 0)
    fleet.update(None, "last_secret = 'another'")
    status, out, _ = run("app", "--json")
    found = json.loads(out)
    assert (status, found["secrets_here"], found["refreshed_with_previous_secret"]) == (0, 2, 1)
    assert (found["blocked"][0]["secret"], found["blocked"][0]["reason"]) == ("current", "invalid_client")
    blocked(fleet, one, 1)
    out = run("app")[1]
    assert "current secret, since" in out
    assert "previous secret, since" in out
    assert "the-one-before" not in out
    assert "1 refreshed last with another secret than the one in use" in out
    assert json.loads(run("status", "--json")[1])["refreshed_with_previous_secret"] == 1


def test_after_a_rotation_all_count_until_each_was_refreshed_with_the_new_secret(
    run: Run, fleet: Fleet, start_worker: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seen when the row kept the secret's role: nobody counted at once, before the new secret had ever worked.
    connected = fleet.connect(3)
    old = fleet.simulator.client_secret
    before = start_worker(INTUIT_CLIENT_SECRET_PREVIOUS="")
    for each in connected:
        assert refresh(before.refresher, each.id, trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
    monkeypatch.setenv("QBO_INTUIT_CLIENT_SECRET", "the new one")
    monkeypatch.setenv("QBO_INTUIT_CLIENT_SECRET_PREVIOUS", old)
    settings.load.cache_clear()

    def still() -> int:
        return int(json.loads(run("status", "--json")[1])["refreshed_with_previous_secret"])

    assert still() == 3
    fleet.simulator.set_secrets("the new one", old)
    fleet.let_pass(timedelta(days=2))
    after = start_worker(INTUIT_CLIENT_SECRET="the new one", INTUIT_CLIENT_SECRET_PREVIOUS=old)
    assert refresh(after.refresher, connected[0].id, trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
    assert still() == 2


@pytest.mark.parametrize("command", ["app", "status", "dry-run", "explain"])
@pytest.mark.parametrize(
    ("variable", "value"), [("INTUIT_APPS", "[{"), ("LOOKUP_KEY", "canary"), ("INTUIT_CLIENT_SECRET", "canary ")]
)
def test_malformed_apps_and_keys_are_not_taken_for_absent_ones(
    run: Run, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, *, command: str, variable: str, value: str
) -> None:
    # Seen to fail: all but `app` went on as if there were none.
    (made,) = fleet.connect()
    monkeypatch.setenv(f"QBO_{variable}", value)
    status, out, err = run(command, *([str(made.id)] if command == "explain" else []))
    assert (status, out) == (2, "")
    assert err.startswith(f"qbo-refresh: {variable} ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "dry-run"])
@pytest.mark.parametrize("url", ["amqp://canary", "redis://:canary/x@h:abc/0", "redis://h?socket_timeout=canary"])
def test_a_malformed_url_of_redis_is_not_taken_for_a_redis_that_is_away(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, url: str
) -> None:
    # Seen to fail: "unknown: Redis is away", and "due, but Redis is away".
    monkeypatch.setenv("QBO_REDIS_URL", url)
    status, out, err = run(command)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("qbo-refresh: REDIS_URL is ")


def test_the_fleet_is_shown_where_redis_and_keys_are_not_configured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "LOOKUP_KEY"):
        monkeypatch.delenv(f"QBO_{name}")
    status, out, _ = run("status")
    assert status == 0
    assert "! REDIS_URL is not set" in out


def test_another_deployments_blocked_secret_is_told_apart(run: Run, fleet: Fleet, one: Attempts) -> None:
    blocked(fleet, one, 0)
    fleet.db.execute("UPDATE qbo.app_blocks SET secret_hash = 'x'")
    assert "blocked      another deployment's secret" in run("app")[1]


def test_a_previous_secret_is_not_tried_while_the_current_one_works(run: Run, fleet: Fleet, one: Attempts) -> None:
    # Seen to fail: "next try …" was said of it as soon as another deployment's secret was blocked, too.
    blocked(fleet, one, 1)
    said = "Intuit answers invalid_client; not tried while the current one works\n"
    assert said in run("app")[1]
    fleet.db.execute(
        "INSERT INTO qbo.app_blocks (app_id, secret_hash, reason, connection_ids, blocked_at)"
        " SELECT app_id, 'x', reason, connection_ids, blocked_at FROM qbo.app_blocks"
    )
    assert said in run("app")[1]
    blocked(fleet, one, 0)
    assert said not in run("app")[1]


def test_unblocking_lets_all_go_at_once_and_tells_once(run: Run, fleet: Fleet, one: Attempts) -> None:
    blocked(fleet, one, 0)
    blocked(fleet, one, 1)
    others = fleet.connect(3)
    fleet.update(others[2].id, "status = 'needs_reauth', suspect_since = now(), needs_reauth_since = now()")
    fleet.update(others[2].id, "next_refresh_at = NULL")
    assert one.claim(others[0].id) is None
    fleet.let_pass(timedelta(seconds=1))
    status, out, _ = run("app", "unblock")
    assert status == 0
    assert "2 secrets unblocked" in out
    assert all(one.claim(each.id) is not None for each in others), "and what had been given up is asked again"
    assert fleet.events()[-1] == "app.unblocked"
    assert run("app", "unblock") == (0, "Nothing was blocked; nothing changed.\n", "")
    assert fleet.events().count("app.unblocked") == 1


def test_unblock_of_an_unknown_app_is_refused(run: Run, fleet: Fleet) -> None:
    fleet.connect()
    status, _, err = run("app", "unblock", "--app", "nobody")
    assert (status, "No app has this client id" in err) == (2, True)
