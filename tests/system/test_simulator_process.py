import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import intuit_simulator
from intuit_simulator import Simulator
from intuit_simulator.__main__ import main

ROOT = str(Path(intuit_simulator.__file__).parent.parent)
PATIENCE_SECONDS = 10
STARTER = """
import sys, time, intuit_simulator
simulator = intuit_simulator.start()
print(simulator.pid, simulator.base_url, flush=True)
time.sleep(60)
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT, **more}


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_gone(pid):
        assert time.monotonic() < deadline, "the process still runs"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_simulator_ends_when_its_parent_is_killed(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, env=environment()) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline().split()[0])
        assert not is_gone(pid)
        parent.send_signal(number)
        parent.wait(PATIENCE_SECONDS)
        wait_until_gone(pid)


def test_closing_ends_the_process_even_while_calls_hang() -> None:
    with intuit_simulator.start() as simulator:
        simulator.fault("freeze", if_gone="process")
        with pytest.raises(requests.Timeout):
            requests.post(simulator.token_url, data={}, timeout=0.2)
        began = time.monotonic()
        simulator.close()
        assert time.monotonic() - began < 4
    with pytest.raises(ConnectionRefusedError):
        simulator.status()


def test_no_secret_is_among_the_process_arguments() -> None:
    with intuit_simulator.start(clients={"app": ["canary-secret"]}) as simulator:
        shown = (
            Path(f"/proc/{simulator.pid}/cmdline").read_bytes() + Path(f"/proc/{simulator.pid}/environ").read_bytes()
        )
        assert b"canary-secret" not in shown
        assert simulator.admin_key.encode() not in shown
        assert (simulator.client_id, simulator.client_secret) == ("app", "canary-secret")


def test_a_wrong_option_is_told_at_the_start(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        intuit_simulator.start(policy="nonsense")
    assert "unknown policy 'nonsense'" in capfd.readouterr().err


def test_two_simulators_run_side_by_side() -> None:
    with intuit_simulator.start() as one, intuit_simulator.start(policy="daily") as other:
        one.create_grant()
        assert (one.status()["grants"], other.status()["grants"]) == (1, 0)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = ["--policy", "grace", "--admin-key-file", str(tmp_path / "key"), "--no-journal"]
    with subprocess.Popen(
        [sys.executable, "-m", "intuit_simulator", *arguments],
        stdout=subprocess.PIPE,
        env=environment(SIMULATOR_CLIENTS="app:one app:two other:three"),
        text=True,
    ) as running:
        yield running
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE_SECONDS) == 0


def test_the_command_line_shows_its_addresses_and_an_example(command: subprocess.Popen[str], tmp_path: Path) -> None:
    assert command.stdout
    shown = []
    for line in command.stdout:
        shown.append(line)
        if line.startswith("curl asks"):
            break
    text = "".join(shown)
    base_url = text.split("token ", 1)[1].split()[0].removesuffix("/oauth2/v1/tokens/bearer")
    assert f"curl -u app -d grant_type=refresh_token -d refresh_token=RT1-... {base_url}" in text
    key = (tmp_path / "key").read_text().strip()
    assert key not in text
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    status = Simulator(base_url, key).status()
    assert (status["policy"]["name"], status["clients"], status["journal"]) == ("grace", ["app", "other"], False)


def test_a_port_in_use_ends_with_status_2_and_one_sentence() -> None:
    with intuit_simulator.start() as simulator:
        port = simulator.base_url.rpartition(":")[2]
        ended = subprocess.run(
            [sys.executable, "-m", "intuit_simulator", "--port", port],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"error: 127.0.0.1 cannot listen at --port {port}: address already in use; choose a free port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "99999"), "argument --port: 99999 is no port: choose one from 0 (a free one) to 65535\n"),
        (("--port", "many"), "argument --port: invalid port value: 'many'\n"),
        (("--admin-key-file", "."), "error: --admin-key-file . cannot be read: is a directory; name a file"),
        (
            ("--admin-key-file", "no/key"),
            "--admin-key-file no/key cannot be written: no such file or directory; name a",
        ),
        (("--clients-file", "none"), "error: --clients-file none cannot be read: no such file or directory; name"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status: object = main(arguments)
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert said in err
