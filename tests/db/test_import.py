from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import SecretStr

from qbo_refresh.sealing import Field, realm_place
from tests.support.attempts import FORCED
from tests.support.servers import MISSING, pgbouncer
from worker.attempt import Trigger
from worker.database import Database, DatabaseUnavailable
from worker.importing.lines import Lines
from worker.importing.load import BLOCK_LINES, Importer, Overtaken, Report, Wishes
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.attempts import Attempts
    from tests.support.fleet import Connected, Fleet
    from worker.refresh import Refresher
    from worker.settings import Settings

Line = dict[str, str]
PAST, SOON = timedelta(days=-1), timedelta(days=60)


def when(away: timedelta) -> str:
    return (datetime.now(UTC) + away).isoformat()  # noqa: TID251  # as a file would say it


def line(number: int, **values: str) -> Line:
    return {"realm_id": f"9130{number}", "refresh_token": f"RT1-{number:03}-H0-made-up-for-a-test"} | values


def of(connected: Connected, **values: str) -> Line:
    return {"realm_id": connected.realm_id, "refresh_token": connected.refresh_token} | values


def ignore(step: str, *, bytes_read: int, lines_read: int) -> None:
    assert step
    assert bytes_read >= lines_read


class Import:
    """Imports lines into the test's database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.importer = Importer(database, settings.keyring(), settings.lookup(), settings.apps(), Wishes(), ignore)
        self.rejected = io.StringIO()

    def __call__(self, *lines: Line, **wishes: Any) -> Report:
        """Import JSON lines."""
        text = "".join(json.dumps(each) + "\n" for each in lines)
        return self.text(text, **wishes)

    def text(self, text: str, **wishes: Any) -> Report:
        """Import a file's text."""
        importer = replace(self.importer, wishes=Wishes(**wishes))
        return importer.run(Lines(io.BytesIO(text.encode())), rejected=self.rejected)


@pytest.fixture
def take(database: Database, settings: Settings) -> Import:
    return Import(database, settings)


def number_of(database: Database, table: str) -> int:
    return int(database.execute(f"SELECT count(*) AS n FROM qbo.{table}").one().n)  # noqa: S608  # a test's own text


def everything(database: Database) -> list[Any]:
    """Return every row of a connection that an import could change."""
    tables = ("connections", "candidates", "external_ids")
    return [database.execute(f"SELECT * FROM qbo.{table} ORDER BY 1").all() for table in tables]  # noqa: S608  # as above


def names(database: Database) -> list[tuple[str, int]]:
    rows = database.execute("SELECT external_id, connection_id FROM qbo.external_ids ORDER BY 1")
    return [(row.external_id, row.connection_id) for row in rows]


def only(database: Database) -> int:
    return int(database.execute("SELECT id FROM qbo.connections").one().id)


def test_a_realm_that_is_no_number_and_a_label_that_is_no_text_are_refused_by_their_lines(take: Any) -> None:
    # Seen to fail: both were imported.
    report = take(line(1), line(2, realm_id="acme-2"), {**line(3), "label": ["eu"]}, {**line(4), "label": 7})
    assert report.reasons == [
        (2, "realm_id is not 1 to 64 digits"),
        (3, "label is not a JSON string"),
        (4, "label is not a JSON string"),
    ]
    assert not report.kept


def test_a_line_becomes_a_connection_that_opens(take: Import, fleet: Fleet, database: Database) -> None:
    told = {
        "label": "first",
        "external_id": "acme-1",
        "access_token": "eyJ.made.up",
        "access_expires_at": when(timedelta(minutes=30)),
        "refresh_expires_at": when(SOON),
        "hard_expires_at": when(10 * SOON),
        "token_obtained_at": when(PAST),
    }
    report = take(line(1, **told))
    assert (report.read, report.imported, report.rejected, report.kept) == (1, 1, 0, True)
    row = fleet.row(only(database))
    assert fleet.token(row.id) == "RT1-001-H0-made-up-for-a-test"
    assert fleet.keyring.open(row.realm_id, realm_place("sandbox", row.id)).reveal() == "91301"
    assert fleet.keyring.open(row.access_token, fleet.place(row.id, Field.ACCESS_TOKEN)).reveal() == "eyJ.made.up"
    assert (row.status, row.label, row.grant_number, row.token_version, row.frozen) == ("active", "first", 1, 1, False)
    assert {name: getattr(row, name).isoformat() for name in told if name.endswith("_at")} == {
        name: value for name, value in told.items() if name.endswith("_at")
    }
    assert timedelta(minutes=-1) <= row.due_in <= timedelta(days=1)
    assert names(database) == [("acme-1", row.id)]


def test_an_imported_connection_is_refreshed_by_a_worker(
    take: Import, fleet: Fleet, refresher: Refresher, database: Database
) -> None:
    (grant,) = fleet.simulator.create_grants(1, client_id=fleet.app.client_id)
    take({"realm_id": grant.realm_id, "refresh_token": grant.refresh_token})
    result = refresh(refresher, only(database), trigger=Trigger.ADHOC, freshness=FORCED)
    assert result.outcome == "refreshed"


def test_importing_the_same_file_again_changes_nothing(take: Import, database: Database) -> None:
    lines = [line(each, external_id=f"acme-{each}") for each in range(5)]
    take(*lines)
    before = everything(database)
    report = take(*lines)
    assert (report.read, report.unchanged, report.kept, report.rejected) == (5, 5, False, 0)
    assert everything(database) == before


def test_the_same_file_changes_nothing_after_the_worker_has_rotated_the_token(
    take: Import, fleet: Fleet, one: Attempts, database: Database
) -> None:
    (connected,) = fleet.connect()
    one.save(one.claimed(connected.id))
    one.save(one.claimed(connected.id, freshness=FORCED), "RT1-003-H0-a-third-made-up-token")
    before = everything(database)
    report = take(of(connected), update=True)
    assert (report.superseded, report.kept, report.rejected) == (1, False, 0)
    assert everything(database) == before


@pytest.mark.parametrize("wishes", [{}, {"skip_bad": False, "update": True}])
def test_one_bad_line_keeps_everything_out(take: Import, database: Database, wishes: dict[str, bool]) -> None:
    report = take(line(1, external_id="a"), {"realm_id": "9130"}, line(3), **wishes)
    assert (report.imported, report.rejected, report.kept) == (0, 1, False)
    assert report.reasons == [(2, "refresh_token is missing")]
    assert everything(database) == [[], [], []]


def test_with_skip_bad_the_good_lines_are_imported(take: Import, database: Database) -> None:
    report = take(line(1), {"realm_id": "9130"}, line(3), skip_bad=True)
    assert (report.read, report.imported, report.rejected, report.kept) == (3, 2, 1, True)
    assert number_of(database, "connections") == 2


def test_a_wrong_header_is_not_skipped(take: Import, database: Database) -> None:
    report = take.text("realm_id,refresh_token,colour\n91,RT1-made-up-1,red\n", skip_bad=True)
    assert (report.read, report.rejected, report.reasons[0][0], report.kept) == (0, 1, 1, False)
    assert number_of(database, "connections") == 0


def test_a_dry_run_counts_and_keeps_nothing(take: Import, database: Database) -> None:
    report = take(line(1, external_id="a"), dry_run=True)
    assert (report.imported, report.kept) == (1, False)
    assert everything(database) == [[], [], []]


def test_two_tokens_for_one_realm_are_both_refused(take: Import) -> None:
    report = take(line(1), line(2), line(1, refresh_token="RT1-another-made-up-token"), skip_bad=True)
    assert report.imported == 1
    assert report.reasons == [
        (1, "realm_id is that of line 3 too, with another refresh_token"),
        (3, "realm_id is that of line 1 too, with another refresh_token"),
    ]


def test_a_repeated_line_is_refused_and_the_first_one_taken(take: Import) -> None:
    report = take(line(1, external_id="a"), line(1, external_id="a"), line(1), skip_bad=True)
    assert report.imported == 1
    assert report.reasons == [
        (2, "realm_id and refresh_token are those of line 1 already"),
        (3, "realm_id and refresh_token are those of line 1 already"),
    ]


def test_lines_of_one_connection_may_each_add_an_external_id(take: Import, database: Database) -> None:
    lines = [line(1), line(1, external_id="a"), line(1, external_id="b")]
    report = take(*lines)
    assert (report.imported, report.named, report.rejected, report.due_now) == (1, 2, 0, 0)
    assert names(database) == [("a", only(database)), ("b", only(database))]
    again = take(*lines)
    assert (again.unchanged, again.named, again.kept) == (3, 0, False)


def test_a_further_external_id_is_added_to_a_connection_that_is_here(take: Import, database: Database) -> None:
    take(line(1, external_id="a"))
    report = take(line(1, external_id="b"))
    assert (report.named, report.unchanged, report.kept) == (1, 0, True)
    assert number_of(database, "external_ids") == 2


def test_a_token_of_two_realms_is_refused_in_both(take: Import) -> None:
    report = take(line(1), line(2, refresh_token=line(1)["refresh_token"]), line(3), skip_bad=True)
    assert report.imported == 1
    assert [number for number, _ in report.reasons] == [1, 2]
    assert report.reasons[1][1] == "refresh_token is that of line 1 too, which has another realm_id"


def test_an_external_id_of_two_realms_is_refused_in_both(take: Import) -> None:
    report = take(line(1, external_id="a"), line(2, external_id="a"), line(3, external_id="b"), skip_bad=True)
    assert report.imported == 1
    assert [number for number, _ in report.reasons] == [1, 2]


def test_a_token_or_name_that_another_connection_holds_is_refused(take: Import, database: Database) -> None:
    take(line(1, external_id="a"))
    holder = only(database)
    report = take(line(2, refresh_token=line(1)["refresh_token"]), line(3, external_id="a"))
    assert report.reasons == [
        (1, f"refresh_token is held by connection {holder}, which is another one"),
        (2, f"external_id names connection {holder}, which is another one"),
    ]


def test_an_older_token_is_left_alone_and_a_differing_one_without_a_time_refused(
    take: Import, fleet: Fleet, one: Attempts, database: Database
) -> None:
    (connected,) = fleet.connect()
    one.save(one.claimed(connected.id))
    before = everything(database)
    other = of(connected, refresh_token="RT1-another-made-up-token")
    assert take(other | {"token_obtained_at": when(PAST)}, update=True).older == 1
    assert take(other, update=True).rejected == 1
    assert everything(database) == before


def test_a_newer_token_becomes_a_candidate_and_the_row_keeps_its_own(
    take: Import, fleet: Fleet, database: Database
) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "next_refresh_at = NULL, status = 'needs_reauth', token_version = 5")
    newer = of(connected, refresh_token="RT1-another-made-up-token", token_obtained_at=when(PAST))
    assert take(newer).rejected == 1
    report = take(newer, update=True)
    assert (report.updated, report.kept) == (1, True)
    (candidate,) = fleet.candidates(connected.id)
    assert (candidate.source, candidate.base_version, candidate.grant_number) == ("import", 5, 1)
    opened = fleet.keyring.open(candidate.refresh_token, fleet.place(connected.id)).reveal()
    assert opened == "RT1-another-made-up-token"
    row = fleet.row(connected.id)
    assert (fleet.token(connected.id), row.token_version) == (connected.refresh_token, 5)
    assert row.due_in <= timedelta(0)
    before = everything(database)
    assert take(newer, update=True).superseded == 1
    assert everything(database) == before


def test_a_newer_token_displaces_the_dead_one_once_intuit_has_accepted_it(
    take: Import, fleet: Fleet, refresher: Refresher
) -> None:
    (connected,) = fleet.connect()
    fleet.update(
        connected.id,
        "refresh_token = %(blob)s, refresh_token_fingerprint = %(print)s, token_version = 2",
        blob=fleet.seal(connected.id, "RT1-dead-made-up-token"),
        print=fleet.fingerprint("RT1-dead-made-up-token"),
    )
    take(of(connected, token_obtained_at=when(PAST)), update=True)
    assert refresh(refresher, connected.id, trigger=Trigger.ADHOC, freshness=FORCED).outcome == "refreshed"
    assert fleet.holds_the_live_token(connected)


def test_a_disconnected_connection_is_not_brought_back(take: Import, fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    fleet.update(
        connected.id,
        "status = 'disconnected', refresh_token = NULL, refresh_token_fingerprint = NULL, token_version = 2",
    )
    report = take(of(connected, token_obtained_at=when(PAST)), update=True)
    assert report.reasons[0][1].startswith(f"connection {connected.id} of this realm was disconnected")


def test_frozen_connections_are_not_due(take: Import, fleet: Fleet, one: Attempts, database: Database) -> None:
    take(line(1, refresh_expires_at=when(timedelta(days=1))), frozen=True)
    assert fleet.row(only(database)).frozen
    assert one.claim(only(database)) is None


def test_first_refreshes_are_spread_and_those_near_their_expiry_are_due_now(take: Import, database: Database) -> None:
    report = take(
        line(1, refresh_expires_at=when(timedelta(days=2))),
        *(line(each, refresh_expires_at=when(SOON)) for each in range(2, 50)),
    )
    assert report.due_now == 1
    due = database.execute("SELECT next_refresh_at - now() AS away FROM qbo.connections ORDER BY id").all()
    assert due[0].away <= timedelta(0)
    hours = {int(row.away / timedelta(hours=1)) for row in due[1:]}
    assert len(hours) == 24


def test_a_bad_line_far_behind_the_first_block_keeps_everything_out(take: Import, database: Database) -> None:
    lines = [line(each) for each in range(2 * BLOCK_LINES + 3)]
    lines[-1] = line(0, refresh_token="RT1-another-made-up-token")
    report = take(*lines)
    assert (report.read, report.rejected, report.kept) == (len(lines), 2, False)
    assert number_of(database, "connections") == 0
    assert take(*lines[:-1]).imported == len(lines) - 1


def test_only_the_first_reasons_are_kept_and_all_are_counted(take: Import) -> None:
    report = take.text("{}\n" * 5000)
    assert (report.rejected, len(report.reasons)) == (5000, 100)


def test_rejects_hold_each_bad_line_and_can_be_mended_and_imported(take: Import, database: Database) -> None:
    text = 'realm_id;refresh_token\n91;RT1-made-up-1\n92;\n93;"RT1\n94;RT1-made-up-4;x\n'
    take.text(text, skip_bad=True)
    assert take.rejected.getvalue().splitlines() == [
        "realm_id;refresh_token;reason",
        "92;;line 3: refresh_token is missing",
        '"93;""RT1";;line 4: the line\'s quotes do not match, or a quoted field has a line break in it',
        '"94;RT1-made-up-4;x";;line 5: the number of fields is 3, the header\'s is 2',
    ]
    mended = "\n".join(take.rejected.getvalue().splitlines()[:2]).replace("92;;", "92;RT1-made-up-2;")
    assert take.text(mended).imported == 1
    assert number_of(database, "connections") == 2


def test_json_rejects_keep_the_line_and_gain_the_reason(take: Import) -> None:
    take.text('{"realm_id": "92"}\nno json\n')
    assert [json.loads(each) for each in take.rejected.getvalue().splitlines()] == [
        {"realm_id": "92", "reason": "line 1: refresh_token is missing"},
        {"line": "no json", "reason": "line 2: the line is not JSON"},
    ]


def test_nothing_in_clear_reaches_the_database(take: Import, database: Database) -> None:
    take(line(1, access_token="eyJ.made.up", access_expires_at=when(SOON)), skip_bad=True)
    text = repr(database.execute("SELECT c::text FROM qbo.connections c").all())
    for secret in ("RT1-001-H0-made-up-for-a-test", "eyJ.made.up", "91301"):
        assert secret not in text
        assert secret.encode().hex() not in text


class MidImport(io.BytesIO):
    """A file during whose reading something happens."""

    def __init__(self, data: bytes, event: Callable[[], None]) -> None:
        super().__init__(data)
        self._event = event

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line, and have it happen at the end."""
        got = super().readline(size)
        if not got:
            self._event()
        return got


def test_an_import_that_is_overtaken_changes_nothing_and_says_so(
    take: Import, settings: Settings, database: Database
) -> None:
    lines = [line(each) for each in range(BLOCK_LINES + 1)]
    data = "".join(json.dumps(each) + "\n" for each in lines).encode()

    def overtake() -> None:
        second = Database(settings.database())
        Import(second, settings)(lines[0])
        second.close()

    with pytest.raises(Overtaken):
        take.importer.run(Lines(MidImport(data, overtake)))
    assert number_of(database, "connections") == 1


def test_a_connection_that_is_lost_midway_leaves_nothing(take: Import, database: Database, database_url: str) -> None:
    pid = database.execute("SELECT pg_backend_pid() AS pid").one().pid
    data = "".join(json.dumps(line(each)) + "\n" for each in range(BLOCK_LINES + 1)).encode()

    def cut() -> None:
        with psycopg.connect(database_url, autocommit=True) as another:
            another.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    with pytest.raises(DatabaseUnavailable):
        take.importer.run(Lines(MidImport(data, cut)))
    assert number_of(database, "connections") == 0


def test_an_import_works_behind_pgbouncer_in_transaction_mode_and_leaves_nothing_in_its_session(
    settings: Settings, database_url: str
) -> None:
    lines = [line(each) for each in range(BLOCK_LINES + 1)]
    with pgbouncer(database_url, default_pool_size=1) as url:
        if url is None:
            pytest.skip(MISSING)
        behind = Database(settings.model_copy(update={"database_url": SecretStr(url)}).database())
        take = Import(behind, settings)
        assert take(*lines, line(0)).kept is False
        assert take(*lines).imported == len(lines)
        assert take(*lines).unchanged == len(lines)
        assert behind.execute("SELECT to_regclass('import_lines') AS left").one().left is None
        behind.close()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_newer_token_that_no_attempt_of_ours_received_was_written_elsewhere(
    fleet: Fleet,
    take: Import,
    refresher: Refresher,
    frozen: bool,  # noqa: FBT001  # a row of the table above
) -> None:
    # Told once for a grant that we refresh; while it is frozen, before a cut-over, the other writer is in his right.
    first, second = fleet.connect(2)
    refresh(refresher, first.id, trigger=Trigger.SWEEP)
    fleet.update(None, "frozen = %(frozen)s", frozen=frozen)
    fleet.let_pass(timedelta(days=1))
    ours = fleet.row(first.id).last_refreshed_at.isoformat(timespec="seconds")
    for number in (1, 2):
        for connected in (first, second):
            newer = {
                "refresh_token": f"RT1-{number}{connected.id}-H0-made-up-for-a-test-00",
                "realm_id": connected.realm_id,
            }
            assert take(newer | {"token_obtained_at": when(timedelta(0))}, update=True).updated == 1
    assert fleet.events(first.id) == ([] if frozen else ["second_writer.seen"])
    told = [] if frozen else [{"seen": "import", "we_refreshed_last_at": ours}]
    assert fleet.payloads(first.id, "second_writer.seen") == told
    assert fleet.events(second.id) == [], "never refreshed by us: this is how it comes to us"
