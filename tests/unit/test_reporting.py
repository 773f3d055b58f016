from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

from worker import log, reporting
from worker.reporting import GONE, Scrubber
from worker.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentry_sdk.envelope import Envelope

CLIENT_SECRET = "canary-client-secret-hunter2"
TOKEN_KEY = base64.b64encode(b"k" * 32).decode()
LOOKUP_KEY = base64.b64encode(b"l" * 32).decode()
PASSWORD = "canary-p@ss word"
TOKEN = "RT1-canary-123-H0-17"
ACCESS = "eyJlbmMiOiJBMTI4Q0JDLUhTMjU2IiwiYWxnIjoiZGlyIn0..abc.def"
REALM = "9130357992221046"
UUID = "3b30771b-0799-4e61-bb87-8af77748fcc9"
LOGIN = "canary-login-of-flower"
CANARIES = (CLIENT_SECRET, LOGIN, TOKEN_KEY, LOOKUP_KEY, PASSWORD, "canary-p%40ss", TOKEN, ACCESS, REALM)


class _Captured(Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.sent.append(envelope.serialize().decode())


@pytest.fixture
def config() -> Settings:
    values: dict[str, Any] = {
        "SENTRY_DSN": "https://public@sentry.invalid/1",
        "DATABASE_URL": "postgresql://qbo:canary-p%40ss%20word@db.invalid/qbo",
        "REDIS_URL": "redis://:short@redis.invalid/0",
        "TOKEN_KEYS": f"k1:{TOKEN_KEY}",
        "LOOKUP_KEY": LOOKUP_KEY,
        "INTUIT_CLIENT_ID": "client",
        "INTUIT_CLIENT_SECRET": CLIENT_SECRET,
        "FLOWER_BASIC_AUTH": f"operator:{LOGIN},other:x",
    }
    return Settings(_env_file=None, **values)


@pytest.fixture
def captured(config: Settings) -> Iterator[_Captured]:
    transport = _Captured()
    sentry_sdk.get_isolation_scope().clear()
    assert reporting.start(config, transport=transport)
    yield transport
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def events(captured: _Captured) -> list[dict[str, Any]]:
    return [json.loads(envelope.splitlines()[2]) for envelope in captured.sent]


def test_nothing_starts_without_a_dsn(config: Settings) -> None:
    assert not reporting.start(config.model_copy(update={"sentry_dsn": None}))


def test_a_malformed_dsn_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match="SENTRY_DSN is not a DSN"):
        reporting.start(Settings(_env_file=None, SENTRY_DSN="nonsense"))


def test_no_secret_leaves_by_any_way_of_an_exception(captured: _Captured) -> None:
    local = f"a local variable with {TOKEN}, {LOGIN} and {CLIENT_SECRET}"
    sentry_sdk.add_breadcrumb(message=f"breadcrumb {TOKEN}", data={REALM: [ACCESS, {"deep": CLIENT_SECRET}]})
    sentry_sdk.set_extra("number", int(REALM))
    try:  # the chain is what is tested
        try:
            raise KeyError(f"cause {TOKEN_KEY} {PASSWORD} postgresql://u:{PASSWORD}@h/x")  # noqa: TRY301  # a cause to chain
        except KeyError as cause:
            raise ValueError(
                f"Basic {base64.b64encode(b'client:' + CLIENT_SECRET.encode()).decode()} {local}"
            ) from cause
    except ValueError:
        sentry_sdk.capture_exception()
    (text,) = captured.sent
    assert not [canary for canary in CANARIES if canary in text]
    assert base64.b64encode(f"client:{CLIENT_SECRET}".encode()).decode().rstrip("=") not in text
    (event,) = events(captured)
    assert [each["type"] for each in event["exception"]["values"]] == ["KeyError", "ValueError"]
    assert all("vars" not in frame for each in event["exception"]["values"] for frame in each["stacktrace"]["frames"])
    assert "breadcrumb" in event["breadcrumbs"]["values"][0]["message"]


def test_a_log_event_becomes_one_issue_for_each_name_and_reason(captured: _Captured) -> None:
    logging.getLogger("qbo_refresh").setLevel(logging.INFO)
    log.info("refresh", connection_id=7, outcome="refreshed", attempt=UUID)
    log.error("app.blocked", app_id=1, reason="invalid_client")
    (event,) = events(captured)
    assert event["fingerprint"] == ["app.blocked", "invalid_client"]
    assert event["logentry"]["message"] == "app.blocked"
    assert event["extra"] == {"app_id": 1, "reason": "invalid_client"}
    assert UUID in event["breadcrumbs"]["values"][0]["message"]


def test_no_integration_is_on_that_looks_into_requests(captured: _Captured) -> None:
    assert set(sentry_sdk.get_client().integrations) == {
        "atexit", "celery", "dedupe", "excepthook", "logging", "threading"
    }  # fmt: skip
    assert captured.sent == []


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        ACCESS,
        REALM,
        "AB11700000000000abcdef",
        TOKEN_KEY,
        "Bearer abcdef.ghijkl",
        "f" * 8 + "0123456789abcdef" * 2,
    ],
)
def test_what_looks_like_a_secret_is_taken_out(secret: str) -> None:
    assert secret not in Scrubber([]).text(f"before {secret} after")
    assert GONE in Scrubber([]).text(f"before {secret} after")


@pytest.mark.parametrize(
    "harmless", [f"attempt={UUID}", "connection_id=123456789", "worker.tasks.refresh_connection", "-" * 60, "a_" * 30]
)
def test_ordinary_words_and_our_ids_stay(harmless: str) -> None:
    assert Scrubber(["hunter2hunter2"]).text(harmless) == harmless


def test_the_password_of_each_of_the_hosts_brokers_is_known(config: Settings) -> None:
    urls: dict[str, Any] = {"QBO_EVENT_BROKER_URL": "amqp://u:canary-one@a.invalid//;amqp://u:canary-two@b.invalid//"}
    brokers = Settings(_env_file=None, **urls)
    assert reporting.scrubber(brokers).text("canary-one and canary-two") == f"{GONE} and {GONE}"
    assert reporting.scrubber(config).text("canary-one") == "canary-one"
