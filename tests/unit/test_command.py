from __future__ import annotations

import subprocess
import sys

# As in an environment with the base dependencies alone.
HOSTS = "import sys; sys.modules['click'] = None; from worker import command; command.main()"
INTERRUPTED = """
import sys
from worker import command
class Loading:
    def __getattr__(self, name):
        raise KeyboardInterrupt
sys.modules['worker'] = Loading()
command.main()
"""


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_in_a_hosts_environment_it_says_what_is_missing() -> None:
    done = _run(HOSTS)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qbo-refresh: click is not installed here")
    assert "Traceback" not in done.stderr


def test_control_c_while_the_program_loads_is_no_traceback() -> None:
    done = _run(INTERRUPTED)
    assert (done.returncode, done.stderr) == (130, "Stopped.\n")
