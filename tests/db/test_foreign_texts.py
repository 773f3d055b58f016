"""Texts of others in labels, names, notes and reasons: SQL, formats, formulas and what a terminal would obey."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import pytest

from worker.cli.printing import printable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Run
    from tests.support.fleet import Fleet

PLAIN = [
    "'; DROP TABLE qbo.connections; --",
    "%s %(x)s %%",
    ":name $1 $$",
    "\\ \\' \\x1b[2J \\u001b",
    "\"quoted\" 'twice' `and`",
    "{} {0} {x!r}",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1 @SUM(A1)",
    "<script>alert(1)</script>",
    "é 漢 ‰",
]
ESCAPES = ["\x1b[2J", "a\tb", "a\x7fb", "a\x9b2Jb", "a\u202eb", "a\u2028b"]
NASTY = "\x1b[2J'; DROP TABLE qbo.outbox; -- %s {} \r\n\x9b31m"


def as_csv(file: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as a spreadsheet does."""
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def as_json(file: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(number: int, text: str) -> dict[str, str]:
    """Return a line whose label and external id are this text."""
    return {
        "realm_id": f"9130{number:03}",
        "refresh_token": f"RT1-{number:03}-H0-made-up-for-a-test",
        "external_id": text,
        "label": text,
    }


def harmless(text: str) -> bool:
    """Tell whether a terminal shows this line by line and does nothing else."""
    # The table of `list` has tabs between its columns where no terminal is.
    return all(each.isprintable() for each in text.replace("\t", "\n").split("\n"))


def told(run: Run, *arguments: str, status: int | None = None) -> str:
    """Return what a command prints, which a terminal must be able to show."""
    ended, out, err = run(*arguments)
    assert status is None or ended == status, err
    assert harmless(out), ascii(out)
    assert harmless(err), ascii(err)
    return out


@pytest.mark.parametrize("write", [as_csv, as_json])
def test_what_a_file_calls_a_connection_is_kept_as_it_stands(
    run: Run, fleet: Fleet, tmp_path: Path, write: Any
) -> None:
    write(tmp_path / "file", [row(*each) for each in enumerate(PLAIN)])
    assert told(run, "import", "file", status=0).startswith(f"{len(PLAIN)} connections imported")
    kept = fleet.db.execute(
        "SELECT label, external_id FROM qbo.connections c JOIN qbo.external_ids ON c.id = connection_id"
    )
    assert sorted(map(tuple, kept)) == sorted((text, text) for text in PLAIN)
    listed = [json.loads(line) for line in told(run, "list", "--json", status=0).splitlines()]
    assert sorted(each["label"] for each in listed) == sorted(PLAIN)
    for text in PLAIN:
        assert text in told(run, "list", "--label", text, status=0)
        assert json.loads(told(run, "explain", f"external:{text}", "--json"))["connection"]["label"] == text
        assert json.loads(told(run, "hold", f"external:{text}", "--json", status=0))["changed"] == 1
        assert json.loads(told(run, "freeze", "--label", text, "--json", status=0))["changed"] == 1


@pytest.mark.parametrize("write", [as_csv, as_json])
@pytest.mark.parametrize("text", ESCAPES)
def test_what_a_terminal_would_obey_is_refused_with_its_line(
    run: Run, fleet: Fleet, tmp_path: Path, write: Any, text: str
) -> None:
    write(tmp_path / "file", [row(0, "Acme"), row(1, text)])
    status, out, err = run("import", "file")
    line = 2 if write is as_json else 3
    assert (status, err) == (
        1,
        f"Line {line}: external_id has a control character in it; label has a control character in it.\n",
    )
    assert harmless(out)
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections").one().n == 0


@pytest.mark.parametrize("text", ["; ".join(PLAIN), NASTY], ids=["plain", "nasty"])
def test_notes_and_reasons_are_kept_as_they_stand_and_shown_without_control_characters(
    run: Run, fleet: Fleet, text: str
) -> None:
    (held,) = fleet.connect(label="Acme")
    told(run, "hold", str(held.id), "--note", text, status=0)
    told(run, "freeze", "--all", "--reason", text, status=0)
    assert fleet.db.execute("SELECT note FROM qbo.sync_holds").one().note == text
    assert fleet.db.execute("SELECT frozen_reason FROM qbo.control").one().frozen_reason == text
    story = json.loads(told(run, "explain", str(held.id), "--json", status=0))
    assert [each["note"] for each in story["holds"]] == [text]
    assert f"({text})" in " ".join(story["ahead"]["in_words"])
    shown = " ".join(told(run, "explain", str(held.id)).split())
    assert " ".join(printable(text).split()) in shown
    for command in (["status"], ["status", "--check"], ["list"], ["events"], ["dry-run"], ["doctor"]):
        told(run, *command)
        for line in told(run, *command, "--json").splitlines():
            json.loads(line)


@pytest.mark.parametrize("text", ["; ".join(PLAIN), NASTY], ids=["plain", "nasty"])
def test_the_reason_of_a_release_is_kept_and_shown_likewise(run: Run, fleet: Fleet, text: str) -> None:
    fleet.connect()
    fleet.db.execute("UPDATE qbo.apps SET guard_tripped_at = now()")
    told(run, "guard", "release", "--reason", text, status=0)
    assert fleet.db.execute("SELECT guard_note FROM qbo.apps").one().guard_note == text
    told(run, "guard")
    (shown,) = told(run, "guard", "--json").splitlines()
    assert json.loads(shown)["note"] == text


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize(
    "command",
    [("hold", "1", "--note"), ("freeze", "--all", "--reason"), ("guard", "release", "--reason"), ("list", "--label")],
)
def test_what_no_column_can_hold_ends_with_2_and_a_sentence(
    run: Run, fleet: Fleet, command: tuple[str, ...], text: str
) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute("UPDATE qbo.apps SET guard_tripped_at = now()")
    status, out, err = run(*(str(connected.id) if each == "1" else each for each in command), text)
    assert (status, out) == (2, "")
    assert err.count("\n") <= 4
    assert "Traceback" not in err
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.sync_holds").one().n == 0


def test_a_label_and_a_name_that_are_in_the_tables_already_are_shown_without_control_characters(
    run: Run, fleet: Fleet
) -> None:
    (connected,) = fleet.connect(label=NASTY)
    fleet.db.execute("INSERT INTO qbo.external_ids VALUES (%(name)s, %(id)s)", {"name": NASTY, "id": connected.id})
    fleet.db.execute("UPDATE qbo.apps SET guard_tripped_at = now()")
    for command in (
        ["list"],
        ["explain", str(connected.id)],
        ["explain", f"external:{NASTY}"],
        ["status"],
        ["events"],
        ["guard"],
    ):
        told(run, *command)
        for line in told(run, *command, "--json").splitlines():
            json.loads(line)
    told(run, "hold", f"external:{NASTY}", status=0)
    for name in ("freeze", "thaw", "hold", "resume", "take-over", "hand-back", "list"):
        for label in (NASTY, f"{NASTY}x"):
            told(run, name, "--label", label)
    for name in ("explain", "hold", "delete", "disconnect", "refresh", "connect"):
        told(run, name, f"external:{NASTY}x")
