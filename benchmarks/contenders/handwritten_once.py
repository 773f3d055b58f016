"""As `handwritten`, with Intuit's discovery document asked for once a process: kinder than the library by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intuitlib import client as intuit  # type: ignore[import-untyped]

from benchmarks.contenders import handwritten
from benchmarks.contenders.handwritten import app

if TYPE_CHECKING:
    import requests

documents: dict[str, dict[str, str]] = {}


def discover_once(environment: str, session: requests.Session) -> dict[str, str]:
    """Return the discovery document, asked for the first time only."""
    if environment not in documents:
        documents[environment] = handwritten.discover(environment, session)
    return documents[environment]


intuit.get_discovery_doc = discover_once

__all__ = ["app"]
