"""Programs started apart from our terminal, account and environment, and ended in time."""

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.embedded.errors import EmbeddedUnavailable

# Nothing of ours reaches the servers: PG* variables and locales change what they do, and our secrets are not theirs.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}
LOWEST_PORT, HIGHEST_PORT = 10_000, 32_000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Account:
    """The account that servers run as; None stands for our own."""

    uid: int | None = None
    gid: int | None = None

    @property
    def is_another(self) -> bool:
        """Whether it is not our own."""
        return self.uid is not None

    @property
    def groups(self) -> list[int] | None:
        """Supplementary groups: none for another account, ours for our own."""
        return None if self.uid is None else []

    def own(self, path: Path, mode: int) -> None:
        """Hand `path` to the account with that mode."""
        path.chmod(mode)
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, directory: Path) -> bool:
        """Say whether the account may use what is inside `directory`."""
        return self.run(["/bin/sh", "-c", 'test -x "$1"', "sh", str(directory)]).returncode == 0

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program of ours to its end."""
        return subprocess.run(  # noqa: S603 - programs of the two wheels
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            user=self.uid,
            group=self.gid,
            extra_groups=self.groups,
            check=False,
        )

    def version(self, program: Path) -> str:
        """Return what the program says about its version; raise OSError if the account cannot run it."""
        done = self.run([program, "--version"])
        if done.returncode:
            raise OSError(done.stderr.strip() or f"exit status {done.returncode}")
        return done.stdout

    def spawn(
        self, command: Sequence[str | Path], *, log: Path, feed: str, keep_open: Sequence[int], if_orphaned: int
    ) -> subprocess.Popen[bytes]:
        """Start a server in a session of its own, so that a terminal's ^C does not reach it before its clients.

        Args:
            feed: what it finds on its standard input; the way for secrets, as arguments are public.
            keep_open: file descriptors that it inherits.
            if_orphaned: the signal that it gets on Linux when this process dies.
        """
        read, write = os.pipe()
        with os.fdopen(write, "wb") as pipe:
            pipe.write(feed.encode())  # a few hundred bytes, which a pipe holds without a reader
        with os.fdopen(read, "rb") as stdin, log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - programs of the two wheels
                command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                pass_fds=keep_open,
                preexec_fn=_signal_when_orphaned(if_orphaned),  # noqa: PLW1509 - the guardian has one thread
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
            )


def server_account() -> Account:
    """Return `nobody` for root, whom PostgreSQL refuses, and our own account for everybody else."""
    if os.geteuid() != 0:
        return Account()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedUnavailable("PostgreSQL refuses to run as root, and there is no account 'nobody' here.") from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def _signal_when_orphaned(number: int) -> Callable[[], None]:
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def arrange() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def adopt_orphans() -> None:
    """Become, on Linux, the parent of what a killed server leaves behind: in a container nobody else may reap it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port() -> int:
    """Return a loopback port on which nobody listens, below those the kernel gives to outgoing connections.

    A client that knocks at a stopped server inside that range can end up connected to itself and hold the port.
    """
    while True:
        port = LOWEST_PORT + secrets.randbelow(HIGHEST_PORT - LOWEST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def end(process: subprocess.Popen[bytes], number: int, *, seconds: float = 10) -> None:
    """Signal a process, frozen or not, and wait for its end; kill it when that takes longer than `seconds`."""
    if process.poll() is None:
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_groups(groups: Sequence[int]) -> None:
    """Ask process groups to end, and kill what is left of them after 8 s."""
    for number, patience in ((signal.SIGTERM, 8.0), (signal.SIGKILL, 2.0)):
        give_up = time.monotonic() + patience
        for group in groups:
            _signal_group(group, number)
        while any(map(is_running, groups)) and time.monotonic() < give_up:
            time.sleep(0.05)


def is_running(group: int) -> bool:
    """Say whether a process group has a member that is more than a zombie."""
    if sys.platform != "linux":
        return _signal_group(group, 0)
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, its_group, *_ = status.read_text(errors="replace").rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state not in "ZX":
            return True
    return False


def remove_tree(directory: Path) -> None:
    """Delete a directory although a process that is just ending may still write into it, for 5 s at most."""
    give_up = time.monotonic() + 5
    while directory.exists() and time.monotonic() < give_up:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0 if not directory.exists() else 0.1)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
