from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests.adapters

from qbo_refresh.status import Outcome
from tests.support.tls import make_certificate, tls_front
from worker.attempt import Trigger
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.fleet import Fleet
    from worker.runtime import Runtime


def test_a_refresh_works_over_tls_and_keeps_its_connection(
    fleet: Fleet, start_worker: Callable[..., Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    with tls_front(fleet.simulator.token_url, certificate) as url:
        refresher = start_worker(INTUIT_TOKEN_URL=url).refresher
        for connected in fleet.connect(3):
            assert refresh(refresher, connected.id, trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
            assert fleet.holds_the_live_token(connected)


def test_a_certificate_of_a_stranger_is_refused_with_nothing_sent(
    fleet: Fleet, start_worker: Callable[..., Runtime], tmp_path: Path
) -> None:
    (connected,) = fleet.connect()
    with tls_front(fleet.simulator.token_url, make_certificate(tmp_path)) as url:
        result = refresh(start_worker(INTUIT_TOKEN_URL=url).refresher, connected.id, trigger=Trigger.SWEEP)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unreachable")
    assert fleet.state(connected).calls == 0


@pytest.mark.parametrize("wrong", [{"address": "127.0.0.2"}, {"expired": True}], ids=["name", "expired"])
def test_a_trusted_certificate_of_another_name_or_past_its_end_is_refused_with_nothing_sent(
    fleet: Fleet,
    start_worker: Callable[..., Runtime],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, Any],
) -> None:
    # Fails with `verify=False` in the transport's pool: seen.
    certificate = make_certificate(tmp_path, **wrong)
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    (connected,) = fleet.connect()
    with tls_front(fleet.simulator.token_url, certificate) as url:
        result = refresh(start_worker(INTUIT_TOKEN_URL=url).refresher, connected.id, trigger=Trigger.SWEEP)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unreachable")
    assert fleet.state(connected).calls == 0
