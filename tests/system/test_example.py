"""The example host beside the worker, played as `make example` plays it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT
from tests.system.test_demo import running_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(200)
def test_a_customer_revokes_and_reconnects_and_its_syncs_pause_and_resume(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT / "examples"), str(ROOT)])
    played = subprocess.run(
        [sys.executable, "-m", "story"],
        cwd=tmp_path,
        # What the user has set is not the example's business.
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path), "DATABASE_URL": "postgresql://127.0.0.1:9/none"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert "✗" not in played.stdout
    assert played.stdout.count("✓") >= 25
    assert not running_in(tmp_path)
    assert not list(tmp_path.iterdir())
