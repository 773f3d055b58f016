"""A host's process under Sentry's defaults, local variables on: a crash anywhere in the client shows nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import qbo_refresh
from intuit_simulator.tokens import key_of
from tests.support.crashing_host import MARK
from tests.support.hosts import configured, host_variables
from tests.support.processes import ROOT
from worker.attempt import Trigger
from worker.refresh import refresh

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from worker.refresh import Refresher


def crashes(variables: dict[str, str], given: object, file: Path) -> dict[str, int]:
    """Run the crashing host, and return how many crashes Sentry heard of, by call."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "tests.support.crashing_host", str(file)]
    ran = subprocess.run(
        command, input=json.dumps(given), env=environment, capture_output=True, text=True, check=False, timeout=150
    )
    assert ran.returncode == 0, ran.stderr
    heard: dict[str, int] = json.loads(ran.stdout)
    return heard


@pytest.mark.timeout(200)
def test_no_crash_in_the_client_shows_a_token_a_company_or_a_secret_to_sentrys_defaults(
    fleet: Fleet, consents: Consents, refresher: Refresher, environment: dict[str, str], tmp_path: Path
) -> None:
    (connected,) = fleet.connect()
    refresh(refresher, connected.id, trigger=Trigger.ADHOC)
    brought = consents.consent(connected.id, connected.realm_id)
    with configured(environment):
        access = key_of(qbo_refresh.access_token(connected.id).reveal())
    canaries = {
        "access token": access,
        "realm id": connected.realm_id,
        "refresh token": fleet.simulator.state(connected.realm_id).refresh_token,
        "its predecessor": connected.refresh_token,
        "client secret": environment["INTUIT_CLIENT_SECRET"],
        "token keys": environment["TOKEN_KEYS"].partition(":")[2],
        "code": brought.code,
        "session": brought.session,
    }
    variables = host_variables(environment) | {"INTUIT_REDIRECT_URL": "http://localhost:4711/callback"}
    heard = crashes(variables, (connected.id, brought.arguments()), tmp_path / "envelopes")
    # The last two crash in what they do not share with the others; a hint right after an attempt sends nothing.
    fewest = {"body": 1, "control": 1, "disconnect_hint": 3}
    few = {label: number for label, number in heard.items() if number < fewest.get(label, 10)}
    assert not few, few
    shown: dict[str, set[str]] = {}
    for envelope in (tmp_path / "envelopes").read_bytes().split(MARK)[1:]:
        label, _, said = envelope.partition(b"\n")
        for name, canary in canaries.items():
            if canary is None or canary.encode() in said:
                shown.setdefault(label.decode(), set()).add(name)
        assert re.search(rb'"vars": ?\{', said), "local variables are on"
    assert shown.pop("control") == {"access token", "realm id"}, "what is in a host's own variables is sent"
    assert shown == {}


@pytest.mark.parametrize("wrong", ["token keys", "not base64", "cut"])
def test_keys_that_are_refused_are_in_no_frame_of_the_error(environment: dict[str, str], wrong: str) -> None:
    """TOKEN_KEYS where CLIENT_KEYS belong is a mistake of a first afternoon, with Sentry listening."""
    keys = {
        "token keys": environment["TOKEN_KEYS"],
        "not base64": "k1:client:é" + "A" * 40,
        "cut": "k1:client:" + "QUJD" * 8,
    }
    error: BaseException | None
    with pytest.raises(qbo_refresh.QboRefreshError) as raised:
        qbo_refresh.configure(database_url="postgresql://user:word@localhost/x", client_keys=keys[wrong])
    error, seen = raised.value, 0
    while error is not None:
        frame = error.__traceback__.tb_next if error.__traceback__ else None  # the first one is this test
        while frame is not None:
            seen += 1
            assert keys[wrong].rpartition(":")[2] not in repr(frame.tb_frame.f_locals)
            frame = frame.tb_next
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert seen >= 2
