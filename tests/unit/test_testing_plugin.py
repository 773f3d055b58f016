from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_CONFTEST = 'pytest_plugins = ["qbo_refresh.testing.plugin"]\n'
_TESTS = """
import qbo_refresh

def test_with_a_fake(qbo_connections):
    qbo_connections.connect(7)
    assert qbo_refresh.access_token(7).connection_id == 7

def test_with_the_simulator(intuit_simulator):
    grant = intuit_simulator.create_grant()
    assert intuit_simulator.state(grant.realm_id).alive
"""


def test_a_hosts_own_tests_get_the_fixtures_by_one_line(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_host.py").write_text(_TESTS)
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:valkey", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in said.stdout, said.stdout
