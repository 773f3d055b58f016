"""A host's side of a test: configured with the derived keys alone, and put away afterwards."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import qbo_refresh
from qbo_refresh import configuration, sealing
from qbo_refresh.database import database
from tests.support.roles import of_host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qbo_refresh.configuration import Configuration


@contextlib.contextmanager
def configured(variables: Mapping[str, str], **changes: Any) -> Iterator[Configuration]:
    """Have this process reach the worker of these variables as a host's does."""
    known: dict[str, Any] = {
        "database_url": of_host(variables["DATABASE_URL"]),
        "database_schema": "qbo",
        "client_keys": sealing.client_keys(variables["TOKEN_KEYS"]),
        "lookup_key": variables["LOOKUP_KEY"],
        "broker_url": of_host(variables["REDIS_URL"]),
    }
    before = configuration._current  # noqa: SLF001  # whatever a test around it has configured
    qbo_refresh.configure(**known | changes)
    try:
        yield configuration.current()
    finally:
        database().close()
        configuration.use(before)


def host_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process of the host's: nothing in it opens a refresh token."""
    return {
        "QBO_DATABASE_URL": of_host(variables["DATABASE_URL"]),
        "QBO_CLIENT_KEYS": sealing.client_keys(variables["TOKEN_KEYS"]),
        "QBO_WORKER_BROKER_URL": of_host(variables["REDIS_URL"]),
    }
