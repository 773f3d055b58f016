from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest

from tests.support.leaks import Canaries

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = 'canary/"+ é&secret~0123456789'
WAYS: dict[str, Callable[[str], bytes]] = {
    "clear": lambda s: s.encode(),
    "hex": lambda s: s.encode().hex().encode(),
    "upper hex": lambda s: s.encode().hex().upper().encode(),
    "json": lambda s: json.dumps({"x": s}).encode(),
    "json in json": lambda s: json.dumps(json.dumps({"x": s})).encode(),
    "json in utf-8": lambda s: json.dumps(s, ensure_ascii=False).encode(),
    "json of PHP": lambda s: json.dumps(s, ensure_ascii=False).replace("/", "\\/").encode(),
    "url": lambda s: quote(s, safe="").encode(),
    "form": lambda s: quote_plus(s).encode(),
    "repr": lambda s: repr(s).encode(),
    "basic": lambda s: base64.b64encode(f"id:{s}".encode()),
    "base64, first": lambda s: base64.b64encode(s.encode() + b"yy"),
    "base64, second": lambda s: base64.b64encode(b"x" + s.encode() + b"yy"),
    "base64, third": lambda s: base64.b64encode(b"xx" + s.encode() + b"yy"),
    "urlsafe": lambda s: base64.urlsafe_b64encode(b"x" + s.encode() + b"y"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_found_in_every_form(way: str) -> None:
    haystack = os.urandom(5000) + WAYS[way](SECRET) + os.urandom(5000)
    assert Canaries({"it": SECRET, "another": "something-else-entirely"}).found_in(haystack) == {"it"}


def test_nothing_is_found_where_nothing_is() -> None:
    assert Canaries({"it": SECRET, "key": os.urandom(32)}).found_in(os.urandom(1 << 20)) == set()
