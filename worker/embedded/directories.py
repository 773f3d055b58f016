"""The directories that servers run in: who may enter them, who holds them, and the password that lies there."""

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from pathlib import Path

from worker.embedded.errors import EmbeddedUnavailable
from worker.embedded.postgres import clusters
from worker.embedded.processes import Account

LOCK_WITHIN_SECONDS = 15.0


def make_scratch(account: Account) -> Path:
    """Return a new temporary directory that `account` can enter."""
    for base in (None, "/tmp"):  # noqa: S108 - mkdtemp makes the name
        scratch = Path(tempfile.mkdtemp(prefix="qbo-", dir=base)).resolve()
        scratch.chmod(0o711 if account.is_another else 0o700)
        if account.can_enter(scratch):
            return scratch
        scratch.rmdir()
    raise EmbeddedUnavailable("The servers run as 'nobody', who can enter neither TMPDIR nor /tmp.")


def hold(directory: Path, account: Account) -> int:
    """Make `directory` ours alone and return the open lock.

    The servers inherit it, so that it becomes free when the last of them, too, is gone.
    """
    is_new = not directory.exists()
    if is_new:
        directory.mkdir(parents=True)
        directory.chmod(0o711 if account.is_another else 0o700)
    if not account.can_enter(directory):
        if is_new:
            directory.rmdir()
        whose = "started by root the servers run as 'nobody', who" if account.is_another else "this account"
        raise EmbeddedUnavailable(f"The servers need a place they can enter: {whose} cannot enter {directory}.")
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    give_up = time.monotonic() + LOCK_WITHIN_SECONDS
    while not _is_ours(lock):
        if time.monotonic() > give_up:
            raise EmbeddedUnavailable(f"Servers of another process already run in {directory}.")
        time.sleep(0.1)
    return lock


def _is_ours(lock: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def stored_password(directory: Path) -> str:
    """Return the password of the data in `directory`; make and store one where there are no data yet."""
    file = directory / "credentials.json"
    if file.exists():
        password: str = json.loads(file.read_text())["password"]
        return password
    if clusters(directory):
        raise EmbeddedUnavailable(f"{directory} holds data, but not the {file.name} that opens them.")
    password = new_password()
    unfinished = file.with_suffix(".new")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        json.dump({"password": password}, output)
        output.flush()
        os.fsync(output.fileno())
    unfinished.replace(file)
    return password


def new_password() -> str:
    """Return a random password that needs no quoting in a URL."""
    return secrets.token_urlsafe(24)
