"""What commands print where a person reads it: on a terminal of a certain width."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT
from tests.system.test_cli_operator import CLI, ended
from worker import holding
from worker.store import outbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.fleet import Fleet

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def on_a_terminal(environment: dict[str, str], tmp_path: Path) -> Callable[..., list[str]]:
    """Give a function that runs a command on a terminal of so many columns, and returns the lines that it printed."""

    def command(*arguments: str, columns: int) -> list[str]:
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            (*CLI, *arguments),
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environment},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=its,
        )
        os.close(its)
        printed = bytearray()
        with contextlib.suppress(OSError):  # the terminal's end
            while read := os.read(ours, 65536):
                printed += read
        os.close(ours)
        assert process.wait(60) == 0
        return _COLOUR.sub("", printed.decode()).splitlines()

    return command


def test_a_listing_keeps_words_whole_at_80_columns_and_has_more_at_160(
    fleet: Fleet, on_a_terminal: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    # Seen to fail: "custome / r-0001-", "discon / nected", and a due time over two lines.
    first, second = fleet.connect(2, label="Acme Widgets Incorporated")
    for name, each in (("customer-1-of-the-host", first), ("customer-2-of-the-host", second)):
        fleet.db.execute("INSERT INTO qbo.external_ids VALUES (%(name)s, %(id)s)", {"name": name, "id": each.id})
    fleet.update(second.id, "status = 'disconnected', next_refresh_at = NULL")
    fleet.update(
        first.id,
        "next_refresh_at = now() + interval '20 hours 1 minute', refresh_expires_at = now() + interval '100 days'",
    )
    narrow = on_a_terminal("list", columns=80)
    assert max(map(len, narrow)) <= 80
    for whole in ("customer-1-of-the-host", "disconnected", "in 20 h", "in 100 days", "Incorporated"):
        assert any(whole in line for line in narrow), whole
    assert narrow[-1] == "Too narrow here for: holds, last, access, hard limit (--json has them)."
    wide = on_a_terminal("list", columns=160)
    assert wide[0].split("  ")[-1] == "hard limit"
    assert len(wide) == 3
    piped = ended((*CLI, "list"), environment, tmp_path).stdout.splitlines()
    assert piped[0].count("\t") == piped[1].count("\t") == 9


def test_events_stand_in_columns_on_a_terminal_and_under_tabs_elsewhere(
    fleet: Fleet, on_a_terminal: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    # Seen to fail: tabs on the terminal, too.
    first, second = fleet.connect(2, label="Acme Widgets Incorporated")
    holding.hold(fleet.db, [first.id, second.id])
    (event, _) = outbox.read(fleet.db, outbox.Wanted(), limit=9)
    outbox.mark_delivered(fleet.db, [event.id], task="host.on_event")
    for columns in (80, 120):
        lines = [line for line in on_a_terminal("events", columns=columns) if "Too narrow" not in line]
        assert max(map(len, lines)) <= columns
        assert "\t" not in "".join(lines)
        start = lines[0].index("delivered")
        rows = [line for line in lines[1:] if "sync.paused" in line]
        assert len(rows) == 2
        assert {line[start - 2 : start] for line in rows} == {"  "}
        assert rows[1][start:] == "waits"
    piped = ended((*CLI, "events"), environment, tmp_path).stdout.splitlines()
    assert piped[0] == "id\tat\ttype\tconnection\tsequence\tnames\tpayload\tdelivered"
    assert re.fullmatch(r"\d+\t20\S{8}T\S{8}Z\tsync\.paused\t.*\t20\S{8}T\S{8}Z to host\.on_event", piped[1])
