"""Starting a simulator as a process of its own, which ends with this one."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from intuit_simulator.client import Simulator

DEFAULT_CLIENT_ID: Final = "simulated-client"
DEFAULT_CLIENT_SECRET: Final = "simulated-secret"  # noqa: S105  # known to everybody, opens nothing
_STOP_SECONDS: Final = 5


class StartedSimulator(Simulator):
    """A simulator in a process of its own; a context manager that ends it."""

    def __init__(
        self, process: subprocess.Popen[bytes], base_url: str, admin_key: str, client: tuple[str, str]
    ) -> None:
        super().__init__(base_url, admin_key, client_id=client[0], client_secret=client[1])
        self._process = process

    @property
    def pid(self) -> int:
        """The process's id: to be stopped with SIGSTOP, for example."""
        return self._process.pid

    def close(self) -> None:
        """End the process; may be called twice."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start(
    *,
    policy: str = "strict",
    policy_settings: Mapping[str, float] | None = None,
    clients: Mapping[str, Sequence[str]] | None = None,
    journal: bool = True,
    port: int = 0,
) -> StartedSimulator:
    """Start a simulator and return when it accepts connections.

    It ends when closed, and when this process ends in whatever way. Raises RuntimeError if it does not start.

    Args:
        policy: "strict", "grace", "reuse-revokes" or "daily".
        policy_settings: what to change in it; `policy.Policy` names the settings.
        clients: the valid secrets of each client id; the first ones become `client_id` and `client_secret`.
        journal: whether calls are recorded; off for benchmarks.
        port: 0 for a free one, which the server itself binds.
    """
    known = dict(clients) if clients else {DEFAULT_CLIENT_ID: [DEFAULT_CLIENT_SECRET]}
    admin_key = secrets.token_urlsafe(24)
    options: dict[str, Any] = {
        "policy": {"name": policy, **(policy_settings or {})},
        "clients": {client_id: list(values) for client_id, values in known.items()},
        "journal": journal,
        "port": port,
        "admin_key": admin_key,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "intuit_simulator", "--managed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _search_path()},
    )
    base_url = _greet(process, options)
    client_id, values = next(iter(known.items()))
    return StartedSimulator(process, base_url, admin_key, (client_id, values[0] if values else ""))


def _greet(process: subprocess.Popen[bytes], options: Mapping[str, Any]) -> str:
    """Hand over the options, secrets among them, through the pipe, and read the address."""
    assert process.stdin is not None  # noqa: S101  # both pipes were asked for
    assert process.stdout is not None  # noqa: S101
    with process.stdout:
        try:
            process.stdin.write(json.dumps(options).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
    if not line:
        process.stdin.close()
        raise RuntimeError(f"the simulator did not start; exit status {process.wait(_STOP_SECONDS)}")
    return str(json.loads(line)["base_url"])


def _search_path() -> str:
    """Return a PYTHONPATH on which the child finds this very package."""
    here = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
