from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from qbo_refresh import sealing
from tests.support.servers import MISSING, pgbouncer
from worker import doctor
from worker.doctor import State
from worker.exchange import exchange
from worker.store import control

if TYPE_CHECKING:
    from collections.abc import Callable

    from intuit_simulator import Simulator
    from tests.support.commands import Run
    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from worker.database import Database
    from worker.runtime import Runtime
    from worker.settings import Settings


def examined(settings: Settings, *, offline: bool = True, **changes: Any) -> dict[str, doctor.Check]:
    changed = settings.model_copy(update=changes)
    return {check.name: check for check in doctor.examine(changed, offline=offline)}


def states(checks: dict[str, doctor.Check]) -> dict[str, State]:
    return {name: check.state for name, check in checks.items()}


def test_a_sound_installation_has_nothing_wrong(fleet: Fleet, settings: Settings, database: Database) -> None:
    fleet.connect(3)
    checks = examined(settings, offline=False)
    assert State.WRONG not in states(checks).values()
    assert checks["intuit"].state is State.OK
    assert "3 sampled refresh tokens open; key ids in use: test" in checks["token keys"].text
    server = database.execute("SELECT current_setting('server_version_num')::int / 10000 AS major").one()
    assert f"PostgreSQL {server.major}" in checks["database"].text
    assert "no pooler" in checks["database"].text
    assert checks["clocks"].state is State.OK
    assert database.execute("SELECT count(*) AS n FROM qbo.refresh_attempts").one().n == 0


def test_it_goes_on_past_a_database_that_is_away(settings: Settings) -> None:
    checks = examined(settings, database_url=SecretStr("postgresql://u:canary@127.0.0.1:1/x"))
    assert checks["database"].state is State.WRONG
    assert "nothing listens there" in checks["database"].text
    assert checks["tables"].state is State.SKIPPED
    assert checks["token keys"].state is State.SKIPPED
    assert checks["redis"].state is State.OK
    assert "canary" not in str(checks)


def test_every_missing_variable_is_named_once(settings: Settings) -> None:
    checks = examined(settings, token_keys=None, redis_url=None)
    assert "TOKEN_KEYS is not set" in checks["environment"].text
    assert "REDIS_URL is not set" in checks["environment"].text
    assert checks["redis"].text == checks["token keys"].text == "see environment"


@pytest.mark.parametrize("url", ["postgresql://u:p/canary@h:abc/x", "postgresql://u:canary@h:abc/x"])
def test_a_malformed_url_is_a_sentence_that_does_not_quote_it(settings: Settings, url: str) -> None:
    check = examined(settings, database_url=SecretStr(url))["environment"]
    assert check.state is State.WRONG
    assert "DATABASE_URL is malformed" in check.text
    assert "canary" not in check.text


def test_a_wrong_password_is_told_from_a_server_that_is_away(settings: Settings, database_url: str) -> None:
    wrong = database_url.replace(str(urlsplit(database_url).password), "wrong")
    assert "refuses the password" in examined(settings, database_url=SecretStr(wrong))["database"].text


def test_a_missing_key_is_named_with_what_it_opens(fleet: Fleet, settings: Settings) -> None:
    fleet.connect(2)
    check = examined(settings, token_keys=SecretStr(f"other:{sealing.new_key()}"))["token keys"]
    assert check.state is State.WRONG
    assert "4 blobs need 'test'" in check.text


def test_a_key_with_the_right_id_and_the_wrong_value_is_noticed(fleet: Fleet, settings: Settings) -> None:
    fleet.connect(2)
    checks = examined(settings, token_keys=SecretStr(f"test:{sealing.new_key()}"))
    assert "2 of 2 sampled refresh tokens do not open" in checks["token keys"].text
    assert checks["lookup key"].state is State.SKIPPED


def test_another_lookup_key_is_noticed(database: Database, settings: Settings) -> None:
    control.check_lookup(database, settings.lookup())
    assert examined(settings)["lookup key"].state is State.OK
    check = examined(settings, lookup_key=SecretStr(sealing.new_key()))["lookup key"]
    assert check.state is State.WRONG


def test_rows_without_keys_here_are_counted(fleet: Fleet, settings: Settings) -> None:
    fleet.connect(2)
    check = examined(settings, intuit_client_id="another")["apps"]
    assert check.state is State.WRONG
    assert "2 of simulated-client (sandbox)" in check.text


def test_each_client_secret_is_asked_about_and_no_grant_is_touched(
    fleet: Fleet, settings: Settings, simulator: Simulator
) -> None:
    made = fleet.connect()[0]
    check = examined(settings, offline=False, intuit_client_secret_previous=SecretStr("canary-old-one"))["intuit"]
    assert check.state is State.WRONG
    assert "INTUIT_CLIENT_SECRET_PREVIOUS of simulated-client" in check.text
    assert "INTUIT_CLIENT_SECRET of" not in check.text
    assert "canary" not in check.text
    assert fleet.holds_the_live_token(made)
    assert all(call.realm_id is None for call in simulator.journal())


def test_where_nothing_listens_neither_secret_nor_internet_is_blamed(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}/token"
    check = examined(settings, offline=False, intuit_token_url=url)["intuit"]
    assert (check.state, check.text) == (
        State.WRONG,
        f"INTUIT_TOKEN_URL's 127.0.0.1:{port} cannot be reached: is the simulator running?",
    )


def with_events(settings: Settings, broker: str | None, **changes: Any) -> doctor.Check:
    url = None if broker is None else SecretStr(broker)
    return examined(settings, event_task="host.on_event", event_broker_url=url, **changes)["event broker"]


def test_the_broker_of_events_is_reached_if_events_are_delivered(settings: Settings) -> None:
    # Seen to fail: there was no such check.
    assert examined(settings)["event broker"].state is State.SKIPPED
    assert with_events(settings, None).text == "EVENT_BROKER_URL is not set: events go to REDIS_URL"
    found = with_events(settings, settings.redis())
    assert (found.state, found.text) == (State.OK, "EVENT_BROKER_URL's broker (redis) answers; no event was sent")


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_of_events_where_nothing_listens_is_wrong(settings: Settings, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = with_events(settings, f"{scheme}://u:canary@127.0.0.1:{port}/0")
    assert (found.state, found.text) == (
        State.WRONG,
        "EVENT_BROKER_URL's broker cannot be reached: is it running, and are scheme, host and port right?",
    )


def test_a_broker_of_events_that_speaks_another_protocol_is_wrong(settings: Settings, database_url: str) -> None:
    redis, postgres = urlsplit(settings.redis()), urlsplit(database_url)
    for url in (f"amqp://u:canary@127.0.0.1:{redis.port}//", f"redis://:canary@127.0.0.1:{postgres.port}/0"):
        found = with_events(settings, url)
        assert found.state is State.WRONG, url
        assert found.text.startswith("EVENT_BROKER_URL's broker ")
        assert "canary" not in found.text


def test_a_broker_of_events_that_says_nothing_is_given_up_soon(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        found = with_events(settings, f"amqp://u:canary@127.0.0.1:{silent.getsockname()[1]}//")
    assert found.state is State.WRONG
    assert time.monotonic() - began < 15


def test_a_broker_of_events_that_refuses_the_password_is_wrong(settings: Settings) -> None:
    parts = urlsplit(settings.redis())
    found = with_events(settings, f"redis://{parts.username or ''}:canary@127.0.0.1:{parts.port}/0")
    assert (found.state, found.text) == (
        State.WRONG,
        "EVENT_BROKER_URL's broker refuses the user or the password: correct them.",
    )


def test_what_only_some_processes_need_is_checked_too(settings: Settings) -> None:
    # Seen to fail: "every variable that is needed is set and well-formed".
    text = examined(
        settings,
        event_task="host.on_event",
        event_broker_url=SecretStr("carrier-pigeon://canary"),
        flower_basic_auth=SecretStr("canary"),
    )["environment"].text
    assert [line.split()[0] for line in text.splitlines()] == ["EVENT_BROKER_URL", "FLOWER_BASIC_AUTH"]


def test_a_freeze_and_missing_tables_are_wrong(settings: Settings, database: Database) -> None:
    database.execute("UPDATE qbo.control SET frozen = true, frozen_reason = 'moving'")
    assert "frozen (moving)" in examined(settings)["control"].text
    checks = examined(settings, database_schema="elsewhere")
    assert "run `qbo-refresh migrate`" in checks["tables"].text
    assert checks["privileges"].state is State.SKIPPED


def test_an_evicting_redis_is_wrong(settings: Settings) -> None:
    import redis  # noqa: PLC0415

    with redis.Redis.from_url(settings.redis()) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            check = examined(settings)["redis memory"]
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert check.state is State.WRONG
    assert "allkeys-lru" in check.text


def test_a_role_that_may_not_write_is_told_what_it_lacks(settings: Settings, database: Database) -> None:
    database.execute("DROP ROLE IF EXISTS reader")
    database.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    try:
        database.execute("GRANT USAGE ON SCHEMA qbo TO reader")
        database.execute("GRANT SELECT ON ALL TABLES IN SCHEMA qbo TO reader")
        place = settings.database().partition("@")[2]
        check = examined(settings, database_url=SecretStr(f"postgresql://reader:reader@{place}"))["privileges"]
    finally:
        database.execute("DROP OWNED BY reader")
        database.execute("DROP ROLE reader")
    assert check.state is State.WRONG
    assert "update connections" in check.text


def test_a_pooler_between_is_noticed(settings: Settings, database_url: str) -> None:
    with pgbouncer(database_url) as url:
        if url is None:
            pytest.skip(MISSING)
        checks = examined(settings, database_url=SecretStr(url))
    assert "behind PgBouncer" in checks["database"].text
    assert checks["connections"].state is State.SKIPPED


def test_a_consents_copy_is_not_taken_for_a_connections_of_the_same_number(
    fleet: Fleet, settings: Settings, consents: Consents, start_worker: Callable[..., Runtime]
) -> None:
    # Fails if every copy in the escrow is opened as a connection's token: seen, "1 of 1 … do not open".
    authorization_id = consents.accepted("external:acme-1")
    sequence = "pg_get_serial_sequence('qbo.connections', 'id')"
    fleet.db.execute(f"SELECT setval({sequence}, %(id)s, false)", {"id": authorization_id})
    assert exchange(start_worker().exchanger, authorization_id).connection_id == authorization_id
    assert examined(settings)["escrow"].text == "1 sampled copies in Redis open"
    other = settings.model_copy(update={"token_keys": SecretStr(f"test:{sealing.new_key()}")})
    assert examined(other)["escrow"].state is State.WRONG


def test_a_young_epoch_is_named_with_what_still_waits(fleet: Fleet, run: Run) -> None:
    fleet.db.execute("UPDATE qbo.control SET epoch_since = now() - interval '3 hours'")
    assert "verdicts wait, or for `qbo-refresh guard release`" in " ".join(run("doctor", "--offline")[1].split())
    fleet.db.execute("UPDATE qbo.control SET epoch_since = now() - interval '25 hours'")
    assert "verdicts wait" not in run("doctor", "--offline")[1]
