import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded servers do not run on Windows")


def start(directory: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "demo", *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(directory)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def running_in(directory: Path) -> list[str]:
    """Return the processes that keep their temporary files there: sessions of their own hide nothing."""
    marker = f"TMPDIR={directory}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(variable.startswith(marker) for variable in (process / "environ").read_bytes().split(b"\0")):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def logs_of(directory: Path) -> str:
    """Return the ends of the logs that a demo keeps there when a promise was not kept."""
    logs = sorted(directory.glob("qbo-demo-logs-*/*"))
    return "".join(f"\n{log.name}:\n{log.read_text()[-3000:]}" for log in logs)


@pytest.mark.timeout(150)
def test_the_demo_keeps_every_promise_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # What lies in the user's directory and environment is not the demo's business.
    (tmp_path / ".env").write_text("QBO_DATABASE_URL=postgresql://127.0.0.1:9/none\nQBO_LEASE_SECONDS=x\n")
    demo = start(tmp_path, "--connections", "40", "--json", REDIS_URL="redis://127.0.0.1:9/0")
    out, err = demo.communicate(timeout=110)
    assert demo.returncode == 0, f"{err}{out}{logs_of(tmp_path)}"
    report = json.loads(out)
    assert report["all_hold"] is True
    assert all(check["holds"] for check in report["checks"])
    assert report["figures"]["connections"] == 40
    assert report["figures"]["statuses"] == {"active": 37, "needs_reauth": 3}
    assert report["figures"]["caught_by_kill"] >= 1
    assert report["figures"]["took_s"] < 80
    assert not running_in(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_control_c_stops_everything(tmp_path: Path) -> None:
    demo = start(tmp_path, "--connections", "40")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "Beat sweeps" in line:
            break
    time.sleep(1)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to all of the foreground
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 130, out + err
    assert err.strip() == "Stopped."
    assert not running_in(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_in_one_sentence(tmp_path: Path) -> None:
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in ('flower', 'aiohttp') else find(name, package)\n"
    )
    demo = start(tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    _, err = demo.communicate(timeout=30)
    assert demo.returncode == 2
    assert err == (
        "qbo-refresh: The demo needs more than is installed here: pip install 'qbo-refresh-worker[flower,simulator]'.\n"
    )
