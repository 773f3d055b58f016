"""As `handwritten`, with Intuit's discovery document asked for once a process: kinder than the library by itself."""

from __future__ import annotations

import functools

from intuitlib import client as intuit  # type: ignore[import-untyped]

from benchmarks.contenders.handwritten import app

_ask = intuit.get_discovery_doc


@functools.cache
def _discover_once(environment: str) -> dict[str, str]:
    document: dict[str, str] = _ask(environment)
    return document


intuit.get_discovery_doc = lambda environment, session=None: _discover_once(environment)  # noqa: ARG005  # the library's

__all__ = ["app"]
