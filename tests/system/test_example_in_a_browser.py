"""The example host's pages and the simulator's consent page, used as a customer uses them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from story.stage import Stage
from tests.support.chromium import MISSING, Chromium, chromium, find_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NARROW, WIDE = (360, 640), (1000, 700)
# Markup, and a word that no window is wide enough for.
NAME = "Dune & <b>Söhne</b> <script>document.title = 'hacked'</script> " + "Donaudampfschiff" * 6
ALLOW, DENY, CONSENT = "button[value=allow]", "button[value=deny]", "Simulated Intuit"


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Chromium]:
    """Give a browser."""
    program = find_chromium()
    if program is None:
        pytest.skip(MISSING)
    with chromium(program, tmp_path) as running:
        yield running


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Give the host beside the worker, with one customer more."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with Stage() as running:
        with closing(sqlite3.connect(running.host_settings["HOST_DATABASE"])) as db, db:
            db.execute("INSERT INTO customers (id, name) VALUES ('dune', ?)", (NAME,))
        yield running


def connect(tab: Chromium, customer: str) -> None:
    """Connect a new company."""
    tab.click(button(customer))
    tab.wait_for(CONSENT)
    tab.click(ALLOW)
    tab.wait_for("connected", within=state(customer))


def button(customer: str) -> str:
    return f'a.button[href="/quickbooks/connect/{customer}"]'


def card(customer: str) -> str:
    return f"article:has({button(customer)})"


def state(customer: str) -> str:
    return f"{card(customer)} .state:is(.ok, .act)"


def realm(stage: Stage, customer: str) -> str:
    synced = stage.customers()[customer]["syncs"]
    return str(next(each["result"] for each in synced if each["kind"] == "company").rpartition(" ")[2])


def fits(tab: Chromium) -> bool:
    """Say whether what is shown can be read in a narrow window and in a wide one, without scrolling sideways."""
    fitting = []
    for size in (NARROW, WIDE):
        tab.resize(*size)
        fitting.append(not tab.must_be_scrolled_sideways())
    return all(fitting)


@pytest.mark.timeout(200)
def test_a_customer_connects_revokes_and_reconnects_in_a_browser(tab: Chromium, stage: Stage) -> None:
    tab.open(stage.web)
    tab.wait_for(NAME, within=card("dune"))
    assert fits(tab)
    assert tab.text("title") == "Customers and QuickBooks"

    tab.click(button("dune"))
    tab.wait_for(CONSENT)
    assert fits(tab)
    tab.click(DENY)
    tab.wait_for("You have not allowed access")
    tab.click('a[href="/"]')
    tab.wait_for("not connected", within=card("dune"))

    for customer in ("birch", "dune"):
        connect(tab, customer)
        tab.wait_for("3 invoices", within=card(customer))
        tab.wait_for("running", within=card(customer))
    assert "Mail" not in tab.text()

    stage.simulator.revoke(realm(stage, "dune"))
    tab.wait_for("must be reconnected", within=state("dune"))
    tab.wait_for("paused: waiting to be reconnected", within=card("dune"))
    tab.wait_for("sync.paused", within=card("dune"))
    assert fits(tab)
    assert tab.text(state("birch")) == "connected"

    mail = f"{card('dune')} .mail a"
    tab.click(mail)
    tab.wait_for(CONSENT)
    tab.choose(f'input[value="{realm(stage, "birch")}"]')
    tab.click(ALLOW)
    tab.wait_for(f"choose {NAME} at QuickBooks")
    assert fits(tab)
    address = tab.address
    assert "code=" in address
    tab.click('a[href="/"]')
    assert tab.referrer == "", "the callback's code, state and realm id are passed on to no other page"
    tab.wait_for("must be reconnected", within=state("dune"))

    tab.click(mail)
    tab.wait_for(CONSENT)
    tab.choose(f'input[value="{realm(stage, "dune")}"]')
    tab.click(ALLOW)
    tab.wait_for("connected", within=f"{card('dune')} .ok")
    assert tab.address == f"{stage.web}/", "who is connected is led away from the callback's address"
    tab.wait_for("running", within=card("dune"))
    tab.wait_for("sync.resumed, missed runs:", within=card("dune"))
    assert not tab.text(mail)

    tab.open(address.replace("state=", "state=x"))
    tab.wait_for("too old, or was used already. Please start again.")
    assert stage.simulator.check().overlapping == 0
