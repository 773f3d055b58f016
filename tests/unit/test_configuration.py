from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

import qbo_refresh
from qbo_refresh import broker, configuration, sealing
from qbo_refresh.errors import ConfigurationError, QboRefreshError
from qbo_refresh.sealing import Field, Keyring, Place, Unsealable
from qbo_refresh.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "canary-value"
MASTER = f"k1:{sealing.new_key()}"
NAMES = ("DATABASE_URL", "DATABASE_SCHEMA", "CLIENT_KEYS", "TOKEN_KEYS", "TOKEN_KEYS_FILE", "LOOKUP_KEY")
URL = f"postgresql://user:{CANARY}@127.0.0.1:1/name"


def _configured(**options: Any) -> None:
    qbo_refresh.configure(**options)
    configuration.current()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*NAMES, "WORKER_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"QBO_{name}", raising=False)
    configuration.use(None)
    yield
    configuration.use(None)


def test_what_is_not_said_is_read_from_the_environment_the_prefixed_name_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://the-hosts-own")
    monkeypatch.setenv("QBO_DATABASE_URL", URL.replace("postgresql://", "postgres://"))
    monkeypatch.setenv("CLIENT_KEYS", sealing.client_keys(MASTER))
    monkeypatch.setenv("WORKER_BROKER_URL", "redis://from-the-environment")
    assert configuration.current().schema == "qbo"
    qbo_refresh.configure(database_schema="other", broker_url="redis://said")
    made = configuration.current()
    assert made.database_url.reveal() == URL
    assert (made.schema, made.broker_url) == ("other", Secret("redis://said"))
    assert made.lookup is None


def test_neither_kind_of_keys_opens_a_refresh_token() -> None:
    worker = Keyring.from_text(MASTER)
    for client_keys, token_keys in ((sealing.client_keys(MASTER), None), (None, MASTER)):
        qbo_refresh.configure(database_url=URL, client_keys=client_keys, token_keys=token_keys)
        made = configuration.current()
        for kind in (Field.ACCESS_TOKEN, Field.REALM_ID):
            place = Place("sandbox", 7, 1, kind)
            assert made.keyring.open(worker.seal(Secret(CANARY), place), place) == Secret(CANARY)
        place = Place("sandbox", 7, 1, Field.REFRESH_TOKEN)
        with pytest.raises(Unsealable):
            made.keyring.open(worker.seal(Secret(CANARY), place), place)


def test_the_configuration_shows_no_secret() -> None:
    qbo_refresh.configure(database_url=URL, token_keys=MASTER, lookup_key=sealing.new_key(), broker_url=CANARY)
    made = configuration.current()
    assert CANARY not in repr(made)
    assert MASTER.partition(":")[2] not in repr(made)


def test_what_the_environment_lacks_is_missed_by_the_first_call_and_not_where_the_process_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    qbo_refresh.configure(pool_size=3)
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        qbo_refresh.access_token(7)
    monkeypatch.setenv("DATABASE_URL", URL)
    with pytest.raises(ConfigurationError, match="CLIENT_KEYS is not set"):
        qbo_refresh.access_token(7)
    monkeypatch.setenv("CLIENT_KEYS", sealing.client_keys(MASTER))
    assert configuration.current().pool_size == 3
    monkeypatch.setenv("DATABASE_URL", "mysql://what-is-malformed-is-named-at-once")
    with pytest.raises(ConfigurationError, match="not a PostgreSQL URL"):
        qbo_refresh.configure()


def test_the_workers_broker_goes_before_that_of_the_hosts_app() -> None:
    own = Celery("own", broker="redis://own", set_as_current=False)
    qbo_refresh.configure(database_url=URL, token_keys=MASTER, app=own)
    assert broker.app() is own
    qbo_refresh.configure(database_url=URL, token_keys=MASTER, app=own, broker_url="redis://workers")
    assert broker.app().conf.broker_url == "redis://workers"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"database_url": f"mysql://{CANARY}"}, "DATABASE_URL is not a PostgreSQL URL"),
        ({"database_url": URL}, "CLIENT_KEYS is not set"),
        ({"database_url": URL, "database_schema": "No Schema"}, "DATABASE_SCHEMA must be"),
        ({"database_url": URL, "client_keys": CANARY}, "CLIENT_KEYS must be"),
        ({"database_url": URL, "client_keys": f"k1:client:{CANARY}"}, "the key 'k1' in CLIENT_KEYS"),
        ({"database_url": URL, "client_keys": MASTER}, "CLIENT_KEYS must be what `qbo-refresh keys client` prints"),
        ({"database_url": URL, "token_keys": sealing.client_keys(MASTER)}, "TOKEN_KEYS (the key 'k1')"),
        ({"database_url": URL, "token_keys": MASTER, "lookup_key": CANARY}, "LOOKUP_KEY"),
    ],
)
def test_what_is_missing_or_malformed_is_named_and_not_repeated(options: dict[str, Any], named: str) -> None:
    with pytest.raises(QboRefreshError) as caught:
        _configured(**options)
    assert named in str(caught.value)
    assert CANARY not in str(caught.value)
    assert str(caught.value).endswith(".")
