from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from qbo_refresh import sealing
from qbo_refresh.errors import QboRefreshError
from qbo_refresh.secret import Secret
from worker import reporting
from worker import settings as worker_settings
from worker.settings import REVOKE_URL, TOKEN_URL, Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANARY = "canary-value"
ONE_KEY = base64.b64encode(bytes(32)).decode()  # the same in each process of pytest
ONE_APP = {"environment": "sandbox", "client_id": "one", "client_secret": CANARY}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"QBO_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    def read_with(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return worker_settings.read()

    return read_with


def complaint(ask: Callable[[], Any]) -> str:
    """Return what is said of a setting: one sentence that names it and never its value."""
    with pytest.raises(QboRefreshError) as caught:
        ask()
    text = str(caught.value)
    assert CANARY not in text
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (Settings.database, "DATABASE_URL"),
        (Settings.redis, "REDIS_URL"),
        (Settings.keyring, "TOKEN_KEYS"),
        (Settings.lookup, "LOOKUP_KEY"),
        (Settings.apps, "INTUIT_CLIENT_ID"),
    ],
)
def test_what_is_missing_is_named(read: Callable[..., Settings], ask: Callable[[Settings], Any], named: str) -> None:
    assert complaint(lambda: ask(read())).startswith(named)


@pytest.mark.parametrize("prefix", ["", "QBO_"])
def test_a_variable_is_named_without_its_prefix(read: Callable[..., Settings], prefix: str) -> None:
    assert complaint(lambda: read(**{f"{prefix}LEASE_SECONDS": CANARY})).startswith("LEASE_SECONDS is not ")


def test_all_wrong_values_are_named_at_once_a_line_each(read: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError) as caught:
        read(LEASE_SECONDS="x", SWEEP_SECONDS="y")
    first, second = str(caught.value).splitlines()
    assert (first.split()[0], second.split()[0]) == ("LEASE_SECONDS", "SWEEP_SECONDS")


def reported(config: Settings) -> Any:
    return reporting.start(config)


# Each field of the settings, what it cannot be, and who meets it; None: whoever reads the settings.
MALFORMED: dict[str, tuple[Callable[[Settings], Any] | None, list[str]]] = {
    "database_url": (Settings.database, [f"mysql://{CANARY}", CANARY, f"postgres://u:{CANARY}/x@h/d"]),
    "migration_database_url": (lambda config: config.database(migration=True), [CANARY, f"postgres://u:{CANARY}/x@h"]),
    "database_schema": (None, [f'{CANARY}"; DROP', "Upper", "1st", "x" * 64]),
    "redis_url": (
        Settings.redis,
        [f"amqp://{CANARY}", CANARY, f"redis://:{CANARY}/x@h:1/0", f"redis://h?socket_timeout={CANARY}"],
    ),
    "token_keys": (Settings.keyring, [CANARY, f"k1:{CANARY}", f"k1:{ONE_KEY},k1:{ONE_KEY}"]),
    "token_keys_file": (Settings.keyring, ["missing-file", "."]),
    "lookup_key": (Settings.lookup, [CANARY, base64.b64encode(b"short").decode()]),
    "intuit_client_id": (Settings.apps, [f"{CANARY} ", f"{CANARY}\n"]),
    "intuit_client_secret": (Settings.apps, [f" {CANARY}", f"{CANARY}\n"]),
    "intuit_client_secret_previous": (Settings.apps, [f"{CANARY}\t"]),
    "intuit_environment": (None, [CANARY, "Production"]),
    "intuit_apps": (
        Settings.apps,
        [
            CANARY,
            "[]",
            "5",
            f'"{CANARY}"',
            f'["{CANARY}"]',
            json.dumps([ONE_APP | {"environment": CANARY}]),
            json.dumps([ONE_APP | {"client_secret": 5}]),
            json.dumps([ONE_APP | {"client_secret": ""}]),
            json.dumps([ONE_APP | {"client_secret": f"{CANARY}\n"}]),
            json.dumps([{"client_secret": CANARY}]),
        ],
    ),
    "intuit_token_url": (Settings.endpoint, [CANARY, f"https://{CANARY}.example/", "http://[::1"]),
    "intuit_revoke_url": (Settings.endpoint, [CANARY, f"https://{CANARY}.example/"]),
    "intuit_api_url": (Settings.endpoint, [CANARY, f"https://{CANARY}.example/"]),
    "intuit_authorize_url": (None, [CANARY, f"ftp://{CANARY}"]),
    "intuit_redirect_url": (None, [CANARY, f"localhost/{CANARY}"]),
    "allow_token_url": (None, [CANARY, f"{CANARY}.example/token"]),
    "reconnect_url": (None, ["https://host.example/", f"javascript:{CANARY}", "/reconnect/{external_id}"]),
    "event_task": (None, [f"{CANARY} task"]),
    "event_queue": (None, [CANARY * 30]),
    "event_broker_url": (
        Settings.event_target,
        [CANARY, "kafka://h", f"http://u:{CANARY}@h/", f"amqp://u:{CANARY}/x@h:abc//"],
    ),
    "flower_basic_auth": (Settings.flower_login, [CANARY, f":{CANARY}", f"{CANARY}:", f"user:{CANARY},{CANARY}"]),
    "refresh_per_minute": (None, ["0", "1.5", "10000001", CANARY]),
    "lease_seconds": (None, ["0", "nan", "100000", CANARY]),
    "confirm_after_seconds": (None, ["-1", "inf", CANARY]),
    "backoff_seconds": (None, ["0", "3601", CANARY]),
    "sweep_seconds": (None, ["0", "3601", CANARY]),
    "heartbeat_url": (None, [CANARY, f"{CANARY}.example/ping"]),
    "sentry_dsn": (reported, [CANARY, f"https://{CANARY}"]),
    "sentry_environment": (None, [f"{CANARY} two", f"{CANARY}/"]),
    "log_level": (None, [CANARY, "30"]),
}
NEEDED = {"EVENT_TASK": "host.on_event", "INTUIT_CLIENT_ID": "id", "INTUIT_CLIENT_SECRET": "secret"}
PYDANTICS = ("Input should", "should have", "should match", "Value error", "valid ", "type=")


def test_every_variable_has_a_value_that_it_cannot_have() -> None:
    assert MALFORMED.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("field", "ask", "value"), [(field, ask, value) for field, (ask, values) in MALFORMED.items() for value in values]
)
def test_every_malformed_variable_is_told_in_one_sentence_with_the_mend(
    read: Callable[..., Settings], field: str, ask: Callable[[Settings], Any] | None, value: str
) -> None:
    # Seen to fail: pydantic's "Input should be a valid number, …", and no word at all for a good third of the fields.
    said = complaint(lambda: (ask or (lambda _: None))(read(**NEEDED | {field.upper(): value})))
    assert said.startswith(f"{field.upper()} ")
    what_is_wrong, mends = said.split(": ", 1)
    assert what_is_wrong != field.upper()
    assert mends
    assert not [word for word in PYDANTICS if word in said]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "LEASE_SECONDS",
            "x",
            "LEASE_SECONDS is not a number from 1 to 3,600: write one, or unset it, which means 60.",
        ),
        (
            "REFRESH_PER_MINUTE",
            "1.5",
            "REFRESH_PER_MINUTE is not a whole number from 1 to 10,000,000: write one, or unset it, which means 1200.",
        ),
        (
            "BACKOFF_SECONDS",
            "0",
            "BACKOFF_SECONDS is not a number above 0 and up to 3,600: write one, or unset it, which means 60.",
        ),
        (
            "LOG_LEVEL",
            "loud",
            "LOG_LEVEL is not one of DEBUG, INFO, WARNING, ERROR: write one, or unset it, which means INFO.",
        ),
        (
            "HEARTBEAT_URL",
            "ping",
            "HEARTBEAT_URL is not a URL that begins with https:// or http://: write one, or unset it.",
        ),
    ],
)
def test_what_a_variable_is_not_is_said_with_its_bounds_and_its_default(
    read: Callable[..., Settings], variable: str, value: str, said: str
) -> None:
    assert complaint(lambda: read(**{variable: value})) == said


def test_flowers_logins_are_taken_as_flower_takes_them(read: Callable[..., Settings]) -> None:
    assert read().flower_login() is None
    login = read(FLOWER_BASIC_AUTH="one:p:w,two:q").flower_login()
    assert login is not None
    assert login.reveal() == "one:p:w,two:q"


def test_a_wrong_login_for_flower_keeps_nobody_else_from_reading_the_settings(read: Callable[..., Settings]) -> None:
    assert read(FLOWER_BASIC_AUTH="nocolon", REDIS_URL="redis://h/0").redis() == "redis://h/0"


@pytest.mark.parametrize("prefixed_first", [True, False])
def test_the_name_with_the_prefix_wins(read: Callable[..., Settings], prefixed_first: bool) -> None:  # noqa: FBT001  # the table's
    values = {"QBO_REDIS_URL": "redis://prefixed", "REDIS_URL": "redis://plain"}
    ordered = values if prefixed_first else dict(reversed(values.items()))
    assert read(**ordered).redis() == "redis://prefixed"


def test_an_empty_variable_is_an_unset_one(read: Callable[..., Settings]) -> None:
    assert read(LEASE_SECONDS="", QBO_REDIS_URL="", REDIS_URL="redis://plain").redis() == "redis://plain"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgres+psycopg2"])
def test_every_name_of_postgresql_is_taken(read: Callable[..., Settings], scheme: str) -> None:
    assert read(DATABASE_URL=f"{scheme}://u:p%40@h/d?x=1").database() == "postgresql+psycopg://u:p%40@h/d?x=1"


def test_migrations_may_have_an_address_of_their_own(read: Callable[..., Settings]) -> None:
    settings = read(DATABASE_URL="postgres://bouncer/d", MIGRATION_DATABASE_URL="postgres://direct/d")
    assert settings.database(migration=True).endswith("//direct/d")
    assert settings.database().endswith("//bouncer/d")


def test_secrets_do_not_show_in_the_settings_repr(read: Callable[..., Settings]) -> None:
    names = [
        "DATABASE_URL",
        "MIGRATION_DATABASE_URL",
        "REDIS_URL",
        "TOKEN_KEYS",
        "LOOKUP_KEY",
        "INTUIT_CLIENT_SECRET",
        "INTUIT_CLIENT_SECRET_PREVIOUS",
        "INTUIT_APPS",
        "SENTRY_DSN",
        "FLOWER_BASIC_AUTH",
    ]
    settings = read(**dict.fromkeys(names, CANARY))
    assert CANARY not in repr(settings)
    assert CANARY not in str(settings.model_dump())


def test_one_app_has_its_secrets_in_the_order_in_which_they_are_tried(read: Callable[..., Settings]) -> None:
    settings = read(INTUIT_CLIENT_ID="id", INTUIT_CLIENT_SECRET="new", INTUIT_CLIENT_SECRET_PREVIOUS="old")
    (app,) = settings.apps()
    assert (app.environment, app.client_id) == ("production", "id")
    assert app.secrets == (Secret("new"), Secret("old"))


def test_several_apps_come_as_json(read: Callable[..., Settings]) -> None:
    other = {"environment": "production", "client_id": "two", "client_secret": "b", "client_secret_previous": "c"}
    one, two = read(INTUIT_APPS=json.dumps([ONE_APP, other])).apps()
    assert (one.environment, one.client_id, one.secrets) == ("sandbox", "one", (Secret(CANARY),))
    assert (two.environment, two.client_id, two.secrets) == ("production", "two", (Secret("b"), Secret("c")))


def test_keys_may_come_from_a_file(read: Callable[..., Settings], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a:{sealing.new_key()}\nb:{sealing.new_key()}\n")
    assert read(TOKEN_KEYS_FILE=str(file)).keyring().key_ids == ("a", "b")


def test_a_key_file_of_random_bytes_is_refused_with_a_sentence(read: Callable[..., Settings], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(bytes(range(128, 256)))
    assert "TOKEN_KEYS_FILE" in complaint(lambda: read(TOKEN_KEYS_FILE=str(file)).keyring())


def test_keys_come_from_one_place(read: Callable[..., Settings], tmp_path: Path) -> None:
    said = complaint(read(TOKEN_KEYS=CANARY, TOKEN_KEYS_FILE=str(tmp_path / "keys")).keyring)
    assert said == "TOKEN_KEYS and TOKEN_KEYS_FILE are both set: unset the one that is not meant."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"REDIS_URL=redis://h\xf6st/0\n", ".env is not UTF-8 (byte 20): save it as UTF-8."),
        (
            b"A=1\n\n# note\n\ncanary-value: {1\n",
            ".env cannot be read at line 5: write NAME=value there, quotes closed.",
        ),
        (b"A=1\nB='canary-value\n", ".env cannot be read at line 2: write NAME=value there, quotes closed."),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(
    read: Callable[..., Settings], tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert complaint(read) == said


def test_what_a_shell_would_take_is_taken_from_the_file(read: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"# a note\r\nexport DATABASE_SCHEMA='mine'\r\n\r\nALONE\r\n")
    assert read().database_schema == "mine"


def test_the_defaults_are_those_of_the_contract(read: Callable[..., Settings]) -> None:
    settings = read()
    endpoint = settings.endpoint()
    assert (endpoint.token_url, endpoint.revoke_url) == (TOKEN_URL, REVOKE_URL)
    assert settings.pace.lease == timedelta(seconds=60)
    assert settings.pace.confirm_after == timedelta(minutes=15)
    assert settings.queue_mark == timedelta(minutes=10)
    assert settings.database_schema == "qbo"


@pytest.mark.parametrize(
    "url",
    [
        TOKEN_URL,
        "http://127.0.0.1:8080/token",
        "http://localhost/token",
        "http://[::1]:8080/token",
        "https://127.8.8.8/token",
    ],
)
def test_intuits_host_and_loopback_get_tokens(read: Callable[..., Settings], url: str) -> None:
    assert read(INTUIT_TOKEN_URL=url).endpoint().token_url == url


@pytest.mark.parametrize(
    "url",
    [
        "https://oauth.platform.intuit.com.evil.example/oauth2/v1/tokens/bearer",
        "https://evil.example/oauth.platform.intuit.com",
        "https://evil.example?oauth.platform.intuit.com",
        "https://evil.example#@oauth.platform.intuit.com",
        "https://oauth.platform.intuit.com@evil.example/",
        "https://user:pass@oauth.platform.intuit.com/",
        "https://oauth.platform.intuit.com\\@evil.example/",
        "https://oauth.platform.intuit.com%2eevil.example/",
        "https://oauth.platform.intuit.com:8443/",
        "http://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
        "ftp://oauth.platform.intuit.com/",
        "//oauth.platform.intuit.com/",
        "http://127.0.0.1.evil/",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://user@127.0.0.1/",
        "http://localhost.evil.example/",
        "http://evil.example/127.0.0.1",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://2130706433.evil/",
        "file:///etc/passwd",
        "http://",
        "not a url",
        "http://[::1",
    ],
)
@pytest.mark.parametrize("variable", ["INTUIT_TOKEN_URL", "INTUIT_REVOKE_URL", "INTUIT_API_URL"])
def test_no_other_host_gets_tokens(read: Callable[..., Settings], variable: str, url: str) -> None:
    settings = read(**{variable: url})
    with pytest.raises(SettingsError, match=variable):
        settings.endpoint()


def test_the_api_is_intuits_for_the_environment_or_beside_a_simulator_or_as_named(
    read: Callable[..., Settings],
) -> None:
    assert read().endpoint().api_urls == {
        "production": "https://quickbooks.api.intuit.com",
        "sandbox": "https://sandbox-quickbooks.api.intuit.com",
    }
    simulated = read(INTUIT_TOKEN_URL="http://127.0.0.1:8765/oauth2/v1/tokens/bearer")
    assert simulated.endpoint().api_urls["sandbox"] == "http://127.0.0.1:8765"
    assert read(INTUIT_API_URL="http://127.0.0.1:9/").endpoint().api_urls["production"] == "http://127.0.0.1:9"


def test_a_stranger_is_allowed_by_naming_exactly_its_url(read: Callable[..., Settings]) -> None:
    url = "https://gateway.example/token"
    assert read(INTUIT_TOKEN_URL=url, ALLOW_TOKEN_URL=url).endpoint().token_url == url
    with pytest.raises(SettingsError):
        read(INTUIT_TOKEN_URL=url + "/other").endpoint()


def test_a_lookup_key_is_32_bytes_of_base64(read: Callable[..., Settings]) -> None:
    assert read(LOOKUP_KEY=base64.b64encode(bytes(32)).decode()).lookup().fingerprint(Secret("x"))


def test_without_an_event_task_nothing_is_delivered(read: Callable[..., Settings]) -> None:
    assert read(EVENT_BROKER_URL="nonsense").event_target() is None


def test_events_go_to_the_workers_own_broker_unless_another_is_named(read: Callable[..., Settings]) -> None:
    own = read(EVENT_TASK="host.on_event", REDIS_URL="redis://:p@h/0").event_target()
    assert own is not None
    assert (own.task, own.queue, own.broker_url.reveal()) == ("host.on_event", "celery", "redis://:p@h/0")
    other = read(EVENT_BROKER_URL="amqp://u:p@h//;amqp://u:p@i//", EVENT_QUEUE="host").event_target()
    assert other is not None
    assert (other.queue, other.broker_url.reveal()) == ("host", "amqp://u:p@h//;amqp://u:p@i//")


@pytest.mark.parametrize(
    ("ask", "file"),
    [
        (Settings.database, "credentials.env"),
        (Settings.redis, "credentials.env"),
        (Settings.keyring, "keys.env"),
        (Settings.lookup, "keys.env"),
    ],
)
def test_what_an_embedded_run_has_left_here_is_named(
    read: Callable[..., Settings], tmp_path: Path, ask: Callable[[Settings], Any], file: str
) -> None:
    config = read()
    assert ".qbo-refresh" not in complaint(lambda: ask(config))
    (tmp_path / ".qbo-refresh").mkdir()
    (tmp_path / ".qbo-refresh" / file).write_text(f"X={CANARY}")
    assert f"`set -a; . .qbo-refresh/{file}`" in complaint(lambda: ask(config))
