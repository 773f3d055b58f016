"""The users under whom system tests run what they start: those of `qbo-refresh roles`, and a host's own in Valkey."""

from __future__ import annotations

import contextlib
import io
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from worker import settings
from worker.cli import main
from worker.store.roles import valkey_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKER, CLIENT, HOST = "qbo_worker", "qbo_client", "host"
PASSWORD = secrets.token_hex(16)
# A host whose Celery app shares the worker's server, as docs/operations.md says it: its own keys, and `qbo.adhoc`.
_HOST = (
    f"user {HOST} on >PASSWORD ~host* ~celery* ~*.celery.pidbox* ~_kombu.binding* ~unacked* ~qbo.adhoc* &*"
    " +@all -@admin -@dangerous +info"
)


def valkey_users() -> list[str]:
    """Return the lines of Valkey's configuration that make all three."""
    lines = (*valkey_lines(worker=WORKER, client=CLIENT), _HOST)
    return [line.replace("PASSWORD", PASSWORD) for line in lines]


def make(owner_url: str) -> None:
    """Make both roles of PostgreSQL as the command does, for the database of this URL, and let them log in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBO_DATABASE_URL", owner_url)
        settings.load.cache_clear()
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit, match="0"):
            main(["roles", "--apply", "--worker", WORKER, "--client", CLIENT])
        settings.load.cache_clear()
    with psycopg.connect(owner_url, autocommit=True) as owner:
        for role in (WORKER, CLIENT):
            owner.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{PASSWORD}'".encode())


def as_user(url: str, user: str) -> str:
    """Return a server's URL for one of these users."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()


def as_worker(variables: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's variables with both servers under its role."""
    return {**variables, **{name: as_user(variables[name], WORKER) for name in ("DATABASE_URL", "REDIS_URL")}}


def of_host(url: str) -> str:
    """Return the URL that the host of a worker has: the client's role where the worker has its own."""
    return as_user(url, CLIENT) if urlsplit(url).username == WORKER else url
