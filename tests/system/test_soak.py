from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.conftest import migrate, with_database
from tests.soak import judging, run
from tests.soak.__main__ import fitting
from tests.soak.plan import DAY, Life, Outage, Plan
from tests.soak.provider import Provider, Weather

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.embedded import Servers

HOUR = timedelta(hours=1)
PLAN = Plan(
    days=104,
    lives=(
        *(Life(name) for name in ("daily", "strict", "grace")),
        Life("daily", hard_end=101 * DAY + 7 * HOUR),
        Life("strict", hard_end=95 * DAY + 90.5 * HOUR),
        Life("grace", revoked=60 * DAY),
    ),
    outages=(Outage(11 * DAY, 30 * DAY, None), Outage(52 * DAY, DAY / 2, Weather.ERROR)),
)
"""The longest outage, the hundred days, an end of five years with its four notices, a revocation: few connections."""


@pytest.fixture
def soak_url(session_servers: Servers) -> Iterator[str]:
    """Give a migrated database of its own: its sessions live by another clock."""
    with psycopg.connect(session_servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE soak")
        url = with_database(session_servers.database_url, "soak")
        migrate(url)
        yield url
        connection.execute("DROP DATABASE soak WITH (FORCE)")


def test_a_hundred_days_with_an_outage_of_thirty_lose_nobody_and_announce_every_end(
    soak_url: str, redis_url: str
) -> None:
    with run.soak(PLAN, database_url=soak_url, redis_url=redis_url, say=lambda _: None, in_turn=True) as soaked:
        verdict = judging.judge(soaked)
    assert list(verdict.violations) == []
    assert verdict.figures["grants_ended"] == 3
    assert verdict.figures["events"] == {
        "connection.needs_reauth": 3,
        "expiring in 1": 2,
        "expiring in 7": 2,
        "expiring in 30": 2,
        "expiring in 90": 2,
        "sync.paused": 3,
    }


def test_a_judge_of_soaks_finds_what_was_planted(soak_url: str, redis_url: str) -> None:
    lives = (*(Life(name) for name in ("daily", "strict", "grace", "daily")), Life("strict", hard_end=112 * DAY))
    unserved = Plan(days=106, lives=lives, outages=(Outage(DAY, 102 * DAY, None),))
    with run.soak(unserved, database_url=soak_url, redis_url=redis_url, say=lambda _: None, in_turn=True) as soaked:
        assert sum("was lost: unused for too long" in each for each in judging.judge(soaked).violations) == 5
        for member in soaked.members:
            grant = member.provider.grant(member.connected.realm_id)
            grant.current.issued_at = member.provider.now  # as if somebody had refreshed it
        first, second, *_, ending = (each.connected.id for each in soaked.members)
        soaked.fleet.update(first, "status = 'needs_reauth'")
        soaked.longest[second] = 110 * DAY
        soaked.refreshed |= dict.fromkeys(soaked.refreshed, 0) | {105 * 24: 20}
        soaked.fleet.db.execute("UPDATE qbo.outbox SET connection_id = NULL WHERE type = 'connection.needs_reauth'")
        soaked.fleet.db.execute(
            "INSERT INTO qbo.outbox (connection_id, sequence, type, payload)"
            " SELECT %(id)s, 90 + n, %(type)s, jsonb_build_object('days', d)"
            " FROM unnest(ARRAY[1, 1, 7]) WITH ORDINALITY AS t (d, n)",
            {"id": ending, "type": "connection.expiring"},
        )
        found = judging.judge(soaked).violations
    for sentence in (
        f"connection {first}, whose grant lives, is needs_reauth",
        f"connection {second} went 110.0 days without a refresh",
        "operators were told of connection.needs_reauth",
        f"connection {ending} was announced at [",
    ):
        assert any(sentence in each for each in found), sentence


def test_a_soak_takes_what_fits_and_never_fewer_than_asked_for() -> None:
    assert fitting(asked=300, available_s=170, wanted_s=90) == int(300 * 0.85 * 170 / 90)
    assert fitting(asked=300, available_s=170, wanted_s=900) == 300
    assert fitting(asked=300, available_s=-1, wanted_s=900) == 300


@pytest.mark.parametrize("name", ["daily", "strict", "grace"])
def test_the_soaks_provider_ends_what_is_not_refreshed_for_a_hundred_days_and_what_is_five_years_old(name: str) -> None:
    provider = Provider(name)
    unused, old = provider.create_grants(2, client_id=provider.client_id)
    settings = provider.book.policy
    provider.now = settings.window_seconds - 1
    assert provider.grant(old.realm_id).why_over(settings, provider.now) is None
    provider.answer(old.refresh_token)
    provider.now += 2
    assert provider.grant(unused.realm_id).why_over(settings, provider.now) == "unused for too long"
    assert provider.grant(old.realm_id).why_over(settings, provider.now) is None
    while provider.now < settings.hard_seconds - 90 * 86400:
        provider.now += 90 * 86400
        provider.answer(provider.grant(old.realm_id).current.value)
    provider.now = settings.hard_seconds
    assert provider.grant(old.realm_id).why_over(settings, provider.now) == "hard expiry"
