from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.attempts import NEW_TOKEN
from worker import exporting
from worker.attempt import Source
from worker.exporting import Exporter, Report, Wishes
from worker.importing.lines import Lines
from worker.importing.load import Importer
from worker.importing.load import Wishes as ImportWishes
from worker.store.transfer.outgoing import Choice

if TYPE_CHECKING:
    from tests.support.attempts import Attempts
    from tests.support.fleet import Fleet
    from worker.database import Database
    from worker.settings import Settings

ALL = Choice()
WAIT = timedelta(hours=1)


class Export:
    """Exports from the test's database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.exporter = Exporter(database, settings.keyring(), Wishes(), lambda _step, _number: None)
        self.text = ""

    def __call__(self, choice: Choice = ALL, *, pause: Any = None, **wishes: Any) -> Report:
        """Export, and keep the text."""
        target = io.StringIO()
        exporter = replace(self.exporter, wishes=Wishes(**wishes), pause=pause or self.exporter.pause)
        report = exporter.run(choice, target)
        self.text = target.getvalue()
        return report

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return what the last export wrote."""
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def export(database: Database, settings: Settings) -> Export:
    return Export(database, settings)


def take(database: Database, settings: Settings, text: str) -> Any:
    importer = Importer(
        database,
        settings.keyring(),
        settings.lookup(),
        settings.apps(),
        ImportWishes(),
        lambda step, *, bytes_read, lines_read: None,  # noqa: ARG005  # the protocol's names
    )
    return importer.run(Lines(io.BytesIO(text.encode())))


def test_what_is_exported_in_clear_is_frozen_and_no_longer_claimed(export: Export, fleet: Fleet, one: Attempts) -> None:
    first, second = fleet.connect(2, label="b")
    report = export(Choice(ids=[first.id]))
    assert (report.exported, report.frozen) == (1, 1)
    assert [(line["realm_id"], line["refresh_token"]) for line in export.lines] == [
        (first.realm_id, first.refresh_token)
    ]
    assert one.claim(first.id) is None
    assert one.claim(second.id) is not None


def test_an_end_that_intuit_has_not_said_is_not_exported_as_if_it_had(export: Export, fleet: Fleet) -> None:
    inferred, said = fleet.connect(2)
    fleet.update(None, "hard_expires_at = now() + interval '80 days'")
    fleet.update(inferred.id, "hard_expires_inferred = true")
    export()
    assert [(line["realm_id"], "hard_expires_at" in line) for line in export.lines] == [
        (inferred.realm_id, False),
        (said.realm_id, True),
    ]


@pytest.mark.parametrize("sealed", [False, True])
def test_an_export_is_imported_again_as_it_was(
    export: Export,
    fleet: Fleet,
    database: Database,
    settings: Settings,
    sealed: bool,  # noqa: FBT001
) -> None:
    connected = fleet.connect(2, label="b")
    fleet.update(None, "token_obtained_at = now() - interval '1 day', refresh_expires_at = now() + interval '99 days'")
    for name in ("a1", "a2"):
        database.execute(
            "INSERT INTO qbo.external_ids VALUES (%(name)s, %(id)s)", {"name": name, "id": connected[0].id}
        )
    shown = (
        "SELECT c.realm_hash, c.label, c.refresh_token_fingerprint, c.token_obtained_at, c.refresh_expires_at,"
        " ARRAY(SELECT external_id FROM qbo.external_ids e WHERE e.connection_id = c.id ORDER BY 1) AS names"
        " FROM qbo.connections c ORDER BY c.id"
    )
    before = database.execute(shown).all()
    export(sealed=sealed)
    assert take(database, settings, export.text).kept is False
    database.execute("DELETE FROM qbo.connections")
    assert take(database, settings, export.text).imported == 2
    assert database.execute(shown).all() == before
    row = database.execute("SELECT min(id) AS id FROM qbo.connections").one()
    assert fleet.token(row.id) == connected[0].refresh_token


def test_a_sealed_export_holds_nothing_in_clear(export: Export, fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    assert export(sealed=True, freeze=False).frozen == 0
    assert connected.refresh_token not in export.text
    assert connected.realm_id not in export.text
    assert not fleet.row(connected.id).frozen


def test_a_connection_under_lease_is_left_out_and_not_frozen(export: Export, fleet: Fleet, one: Attempts) -> None:
    first, second = fleet.connect(2)
    one.claimed(first.id)
    report = export()
    assert (report.exported, report.unsettled) == (1, [first.id])
    assert not fleet.row(first.id).frozen
    assert fleet.row(second.id).frozen


def test_an_attempt_under_way_is_waited_for_and_its_new_token_exported(
    export: Export, fleet: Fleet, one: Attempts
) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    report = export(wait=WAIT, pause=lambda _: one.save(claim))
    assert (report.exported, report.unsettled) == (1, [])
    assert [line["refresh_token"] for line in export.lines] == [NEW_TOKEN]


@pytest.mark.parametrize(
    "doubt", ["in_doubt = true", "lease_id = gen_random_uuid(), leased_until = now() - '1 h'::interval"]
)
def test_a_connection_in_doubt_is_left_out_unless_it_is_wanted(export: Export, fleet: Fleet, doubt: str) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, doubt)
    assert export().unsettled == export(sealed=True).unsettled == [connected.id]
    assert export.text == ""
    assert export(sealed=True, freeze=False).exported == export(unsettled=True).exported == 1


def test_a_connection_with_an_untried_token_is_left_out(export: Export, fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    one.save(claim)
    one.by.store.add_candidate(one.received(claim, "RT1-another-made-up-token"), Source.ESCROW)
    assert export().unsettled == [connected.id]


def test_what_does_not_open_is_left_out_and_not_frozen(export: Export, fleet: Fleet) -> None:
    first, second = fleet.connect(2)
    fleet.update(first.id, "realm_id = %(blob)s", blob=fleet.row(second.id).realm_id)
    report = export()
    assert (report.exported, report.unreadable) == (1, [first.id])
    assert not fleet.row(first.id).frozen


def test_a_disconnected_connection_has_nothing_to_take_along(export: Export, fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    fleet.update(
        connected.id,
        "status = 'disconnected', refresh_token = NULL, refresh_token_fingerprint = NULL, token_version = 2",
    )
    report = export()
    assert (report.exported, report.without_token, export.text) == (0, 1, "")


def test_a_label_chooses_and_batches_leave_none_out(
    export: Export, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BATCH", 2)
    chosen = fleet.connect(5, label="b")
    fleet.connect(1, label="c")
    assert export(Choice(label="b")).exported == 5
    assert [line["realm_id"] for line in export.lines] == [each.realm_id for each in chosen]
