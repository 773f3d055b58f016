from __future__ import annotations

import subprocess
import sys

# As in an environment with the base dependencies alone.
HOSTS = "import sys; sys.modules['click'] = None; from worker import command; command.main()"


def test_in_a_hosts_environment_it_says_what_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", HOSTS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qbo-refresh: click is not installed here")
    assert "Traceback" not in done.stderr
