from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from qbo_refresh import event_message
from qbo_refresh.secret import Secret
from qbo_refresh.status import Event
from worker import event_broker
from worker.settings import EventTarget

if TYPE_CHECKING:
    from qbo_refresh.event_message import EventMessage

URL = "https://host.example/reconnect?id={external_id}"


def made(**changes: Any) -> EventMessage:
    values: dict[str, Any] = {
        "event_id": 7,
        "event_type": Event.NEEDS_REAUTH,
        "connection_id": 3,
        "external_ids": ("a", "b&c=/d"),
        "label": None,
        "sequence": 1,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))),
        "payload": {"reason": "invalid_grant"},
        "reconnect_url": URL,
    }
    return event_message.make(**values | changes)


def test_a_verdict_has_a_link_for_each_external_id_and_an_id_cannot_change_the_link() -> None:
    assert made()["payload"]["reconnect_urls"] == {
        "a": "https://host.example/reconnect?id=a",
        "b&c=/d": "https://host.example/reconnect?id=b%26c%3D%2Fd",
    }


@pytest.mark.parametrize("without", [{"reconnect_url": None}, {"external_ids": ()}])
def test_without_a_template_or_an_external_id_there_is_no_link(without: dict[str, Any]) -> None:
    assert made(**without)["payload"] == {"reason": "invalid_grant", "reconnect_urls": {}}


def test_only_a_verdict_has_links() -> None:
    assert made(event_type=Event.SYNC_PAUSED)["payload"] == {"reason": "invalid_grant"}


def test_moments_are_told_in_utc() -> None:
    assert made()["created_at"] == "2026-01-02T01:04:05.678Z"
    assert event_message.in_utc(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"


def test_a_broker_of_amqp_is_asked_for_confirms_and_every_broker_for_an_answer_within_seconds() -> None:
    amqp, redis = (
        event_broker.connection_to(EventTarget("t", "q", Secret(f"{scheme}://127.0.0.1:1//"))).transport_options or {}
        for scheme in ("amqp", "redis")
    )
    assert amqp["confirm_publish"] is True
    assert max(amqp["read_timeout"], amqp["write_timeout"]) <= 5
    assert max(redis["socket_timeout"], redis["socket_connect_timeout"]) <= 5
