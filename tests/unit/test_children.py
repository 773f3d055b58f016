"""The processes of a demonstration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from worker.embedded.children import Children

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_a_killed_child_leaves_lies_in_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(ours))
    (theirs / "leaving.py").write_text("import tempfile, time\nprint(tempfile.mkdtemp(), flush=True)\ntime.sleep(60)\n")
    children = Children(theirs, {}, watch=lambda _: None)
    children.start("leaving", "leaving")
    try:
        give_up = time.monotonic() + 20
        while not (made := (children.logs / "leaving.log").read_text()) and time.monotonic() < give_up:
            time.sleep(0.02)
    finally:
        children.kill("leaving")
    assert made.startswith(str(theirs))
    assert not list(ours.iterdir())
