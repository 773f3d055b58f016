from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from worker.store.transfer import staging

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Run
    from tests.support.fleet import Fleet
    from worker.database import Database

GOOD = '{"realm_id": "91301", "refresh_token": "RT1-001-H0-made-up"}\n'
BAD = '{"realm_id": "91302"}\n'


def test_import_ends_with_1_for_bad_lines_and_prints_no_value(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(GOOD + BAD)
    status, out, err = run("import", "c.jsonl")
    assert (status, err) == (1, "Line 2: refresh_token is missing.\n")
    assert out.startswith("Nothing was imported: 1 bad line among 2.")
    status, out, err = run("import", "c.jsonl", "--skip-bad", "--rejects", "r.jsonl")
    assert status == 1
    assert out.startswith("1 connection imported, refreshed over the next 24 hours.")
    assert (tmp_path / "r.jsonl").stat().st_mode & 0o777 == 0o600
    assert "91302" in (tmp_path / "r.jsonl").read_text()
    assert "91302" not in out + err


def test_import_of_good_lines_ends_with_0_and_leaves_no_empty_rejects(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c").write_text(GOOD)
    status, out, _ = run("import", "c", "--rejects", "r", "--json")
    assert (status, json.loads(out)["imported"]) == (0, 1)
    assert not (tmp_path / "r").exists()
    assert run("import", "c") == (0, "Nothing changed.\n1 unchanged: here already, with this token.\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.csv",), "'nowhere.csv' cannot be read: No such file or directory."),
        (("there",), "'there' cannot be read: Is a directory."),
        (("packed",), "The file is compressed (gzip)"),
        (("c", "--rejects", "c"), "'c' exists already: it is not overwritten."),
        (("c", "--rejects", "there"), "'there' is a directory: name a new file in it."),
        (("c", "--rejects", "no/r"), "'no/r' cannot be written: make the directory 'no' first."),
        (("c", "--format", "xml"), "is not one of 'csv', 'jsonl'"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_one_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "c").write_text(GOOD)
    (tmp_path / "there").mkdir()
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\x08\x00\n")
    status, out, err = run("import", *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert (tmp_path / "c").read_text() == GOOD


def test_an_import_that_is_interrupted_says_what_to_do_and_keeps_nothing_of_the_file(
    run: Run, tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c").write_text(GOOD)
    write = staging.write

    def interrupt(db: Database, *, frozen: bool) -> int:
        write(db, frozen=frozen)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(staging, "write", interrupt)
        status, out, err = run("import", "c")
    assert (status, out) == (130, "")
    said = [line for line in err.splitlines() if line]
    assert said == ["Not imported to its end: import it again; what is here already stays as it is.", "Stopped."]
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections").one().n == 0
    assert run("import", "c")[0] == 0


def test_an_empty_file_is_found_wrong(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    assert run("import", "empty.csv") == (1, "The file holds no connections: nothing was imported.\n", "")


def test_an_export_is_readable_by_its_owner_alone_and_overwrites_nothing(
    run: Run, fleet: Fleet, tmp_path: Path
) -> None:
    (connected,) = fleet.connect()
    assert run("export", "out.jsonl")[0] == 2
    assert not (tmp_path / "out.jsonl").exists()
    status, out, _ = run("export", "out.jsonl", "--freeze")
    assert (status, out) == (0, "1 connection exported, 1 of them frozen by this.\n")
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600
    assert connected.refresh_token in (tmp_path / "out.jsonl").read_text()
    assert run("export", "out.jsonl", "--freeze")[0] == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.jsonl"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("no/x.jsonl", "'no/x.jsonl' cannot be written: make the directory 'no' first."),
        (".", "'.' is a directory: name a new file in it."),
    ],
)
def test_an_export_to_where_no_file_can_be_changes_nothing(run: Run, fleet: Fleet, file: str, said: str) -> None:
    (connected,) = fleet.connect()
    assert run("export", file, "--freeze") == (2, "", f"qbo-refresh: {said}\n")
    assert not fleet.row(connected.id).frozen


def test_an_export_to_standard_output_reports_on_standard_error(run: Run, fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    status, out, err = run("export", "-", str(connected.id), "--freeze", "--json")
    assert (status, json.loads(out)["refresh_token"]) == (0, connected.refresh_token)
    assert json.loads(err)["exported"] == 1


def test_an_export_that_leaves_one_out_ends_with_1_and_names_it(run: Run, fleet: Fleet) -> None:
    first, _ = fleet.connect(2)
    fleet.update(first.id, "in_doubt = true")
    status, out, _ = run("export", "out.jsonl", "--freeze", "--wait", "0")
    assert status == 1
    assert f"1 left out and not frozen ({first.id})" in out
