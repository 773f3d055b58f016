"""Three customers connect, one revokes at Intuit, its syncs pause, it reconnects, they go on: played and checked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from story.browser import Browser, link_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from story.stage import Stage

LASTS_AT_MOST_S = 90.0
_WITHIN_S = 25.0
_LOOK_EVERY_S = 0.05
_PAUSE_WATCHED_S = 3.0
# The first call of each of the two syncs, and of those that began before the suspicion was in the row.
_MOST_401 = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    holds: bool
    words: str


def play(stage: Stage) -> Iterator[Check]:
    """Play the story; yield what is found on the way. It ends early if the rest cannot be played."""
    began = time.monotonic()
    for scene in (_connect, _revoke, _reconnect):
        for check in scene(stage):
            yield check
            if not check.holds:
                return
    yield from _afterwards(stage)
    took = time.monotonic() - began
    yield Check(took < LASTS_AT_MOST_S, f"the story took {took:.0f} s, {LASTS_AT_MOST_S:.0f} at most")


def _connect(stage: Stage) -> Iterator[Check]:
    for customer in stage.customers():
        browser = Browser()
        link = link_of(browser.read(stage.web), stage.web, f"/quickbooks/connect/{customer}")
        status, _ = browser.consent(link or "")
        yield Check(status == 200, f"{customer} has connected through the host's page and Intuit's")  # noqa: PLR2004
    synced = _wait(stage, lambda customers: all(_runs(customer) >= 4 for customer in customers.values()))  # noqa: PLR2004
    runs = {name: _runs(customer) for name, customer in stage.customers().items()}
    yield Check(synced, f"both syncs of all three run: {_listed(runs)} runs")
    told = [event for customer in stage.customers().values() for event in _events(customer)]
    yield Check(not told, "nobody was told anything: nothing has happened")


def _revoke(stage: Stage) -> Iterator[Check]:
    realm_id = _realm_of(stage, "acme")
    stage.simulator.revoke(realm_id)
    quiet = _wait(stage, lambda customers: _holds(customers["acme"]) == ["suspect"])
    told = _events(stage.customers()["acme"])
    yield Check(quiet and not told, "acme revokes at Intuit: its next sync meets a 401, syncs wait, nobody is told yet")
    marked = _wait(stage, lambda customers: customers["acme"]["connection"]["status"] == "needs_reauth")
    yield Check(marked, "Intuit refuses it once more: needs_reauth")
    expected = ["connection.needs_reauth", "sync.paused"]
    told_all = _wait(stage, lambda customers: sorted(_events(customers["acme"])) == expected)
    yield Check(told_all, "the host is told once: connection.needs_reauth, sync.paused")
    yield from _paused(stage)


def _paused(stage: Stage) -> Iterator[Check]:
    before, asked = stage.customers(), _answers(stage, "401")
    time.sleep(_PAUSE_WATCHED_S)
    after = stage.customers()
    still = _runs(before["acme"]) == _runs(after["acme"]) and _answers(stage, "401") == asked
    yield Check(still, f"{_PAUSE_WATCHED_S:.0f} s on: no sync of acme's has run, no call reached QuickBooks for it")
    missed = [each["acme"]["connection"]["missed_runs"] for each in (before, after)]
    yield Check(missed[0] < missed[1], f"each skipped run was counted: {missed[1]} so far")
    others = all(_runs(before[name]) < _runs(after[name]) for name in ("birch", "cedar"))
    yield Check(others, "birch and cedar were synced meanwhile")
    yield Check(0 < asked <= _MOST_401, f"{asked} calls in all met the dead access token")


def _reconnect(stage: Stage) -> Iterator[Check]:
    mail = stage.customers()["acme"]["mail"]
    yield Check(len(mail) == 1, "one mail to acme, with the link")
    before, browser = stage.customers()["acme"], Browser()
    status, page = browser.consent(mail[0]["link"], realm_id=_realm_of(stage, "birch"))
    refused = status == 409 and "choose Acme Tools" in page  # noqa: PLR2004
    yield Check(refused and _holds(stage.customers()["acme"]) == ["reauth"], "another company is refused, by name")
    status, _ = browser.consent(mail[0]["link"], realm_id=_realm_of(stage, "acme"))
    yield Check(status == 200, "acme has reconnected through that link")  # noqa: PLR2004
    back = _wait(stage, lambda customers: _runs(customers["acme"]) >= _runs(before) + 2)
    yield Check(back, "its syncs run again")
    expected = ["connection.needs_reauth", "connection.reconnected", "sync.paused", "sync.resumed"]
    told = _wait(stage, lambda customers: sorted(_events(customers["acme"])) == expected)
    yield Check(told, "the host is told once: connection.reconnected, sync.resumed")
    acme = stage.customers()["acme"]
    missed = next(event["payload"]["missed_runs"] for event in acme["events"] if event["type"] == "sync.resumed")
    seen = before["connection"]["missed_runs"]
    yield Check(missed >= seen, f"sync.resumed tells the {missed} runs that were missed; the page had shown {seen}")
    settled = acme["connection"]["status"] == "active" and not _holds(acme) and not acme["mail"]
    yield Check(settled, "acme is active, without holds, and its mail is settled")


def _afterwards(stage: Stage) -> Iterator[Check]:
    others = {kind for name in ("birch", "cedar") for kind in _events(stage.customers()[name])}
    yield Check(not others, "birch and cedar never heard a word")
    seen = stage.simulator.check()
    yield Check(seen.overlapping == 0, f"no two of {seen.calls} calls at Intuit had the same token at once")
    yield Check(not stage.host.ended(), "no process of the host's has ended")
    holding = [secret for secret in _secrets(stage) if any(secret in value for value in stage.host_settings.values())]
    yield Check(not holding, "the host was given no client secret and no key of refresh tokens")
    shown = [file.name for file in sorted(stage.host_logs.iterdir()) if _shows(file, _in_clear(stage))]
    yield Check(not shown, "no token, realm id or secret in the host's logs" + "".join(f", but in {n}" for n in shown))
    errors = [line for file in stage.host_logs.iterdir() for line in file.read_text().splitlines() if "ERROR" in line]
    yield Check(not errors, f"{len(errors)} errors in the host's logs")


def _wait(stage: Stage, happened: Callable[[dict[str, dict[str, Any]]], bool]) -> bool:
    """Look at the host's page until something has happened; False if it takes too long."""
    give_up = time.monotonic() + _WITHIN_S
    while not happened(stage.customers()):
        if time.monotonic() > give_up:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _runs(customer: dict[str, Any]) -> int:
    return sum(sync["runs"] for sync in customer["syncs"])


def _events(customer: dict[str, Any]) -> list[str]:
    return [event["type"] for event in customer["events"]]


def _holds(customer: dict[str, Any]) -> list[str]:
    return list(customer["connection"]["holds"])


def _answers(stage: Stage, status: str) -> int:
    return int(stage.simulator.status()["api_answers"].get(status, 0))


def _realm_of(stage: Stage, customer: str) -> str:
    """Return a customer's company at Intuit, which its owner knows: the sync has written down its name."""
    syncs = stage.customers()[customer]["syncs"]
    return str(next(sync["result"] for sync in syncs if sync["kind"] == "company").rpartition(" ")[2])


def _secrets(stage: Stage) -> list[str]:
    names = ("INTUIT_CLIENT_SECRET", "TOKEN_KEYS", "LOOKUP_KEY")
    return [stage.worker_settings[name].rpartition(":")[2] for name in names]


def _in_clear(stage: Stage) -> list[bytes]:
    """Return what must be nowhere: secrets, realm ids, refresh tokens, and how every access token begins."""
    states = list(stage.simulator.states())
    tokens = [token for state in states for token in (state.refresh_token, *state.superseded)]
    return [text.encode() for text in (*_secrets(stage), *tokens, *(state.realm_id for state in states), "eyJhbGci")]


def _shows(file: Path, secrets: list[bytes]) -> bool:
    written = file.read_bytes()
    return any(secret in written for secret in secrets)


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
