from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from qbo_refresh.secret import Secret
from qbo_refresh.status import Event
from worker import event_broker
from worker.delivery import as_message
from worker.moments import to_the_millisecond
from worker.settings import EventTarget
from worker.store.outbox import Stored

URL = "https://host.example/reconnect?id={external_id}"


WRITTEN = Stored(
    id=7,
    type=Event.NEEDS_REAUTH,
    connection_id=3,
    external_ids=("a", "b&c=/d"),
    label=None,
    sequence=1,
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))),
    payload={"reason": "invalid_grant"},
    delivered_at=None,
    delivered_to=None,
)


def test_a_verdict_has_a_link_for_each_external_id_and_an_id_cannot_change_the_link() -> None:
    assert as_message(WRITTEN, URL)["payload"]["reconnect_urls"] == {
        "a": "https://host.example/reconnect?id=a",
        "b&c=/d": "https://host.example/reconnect?id=b%26c%3D%2Fd",
    }


@pytest.mark.parametrize(("event", "url"), [(WRITTEN, None), (replace(WRITTEN, external_ids=()), URL)])
def test_without_a_template_or_an_external_id_there_is_no_link(event: Stored, url: str | None) -> None:
    assert as_message(event, url)["payload"] == {"reason": "invalid_grant", "reconnect_urls": {}}


def test_only_a_verdict_has_links() -> None:
    assert as_message(replace(WRITTEN, type=Event.SYNC_PAUSED), URL)["payload"] == {"reason": "invalid_grant"}


def test_moments_are_told_in_utc() -> None:
    assert as_message(WRITTEN, URL)["created_at"] == "2026-01-02T01:04:05.678Z"
    assert to_the_millisecond(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"


def test_a_broker_of_amqp_is_asked_for_confirms_and_every_broker_for_an_answer_within_seconds() -> None:
    amqp, redis = (
        event_broker.connection_to(EventTarget("t", "q", Secret(f"{scheme}://127.0.0.1:1//"))).transport_options or {}
        for scheme in ("amqp", "redis")
    )
    assert amqp["confirm_publish"] is True
    assert max(amqp["read_timeout"], amqp["write_timeout"]) <= 5
    assert max(redis["socket_timeout"], redis["socket_connect_timeout"]) <= 5
