"""A person with a browser at the simulator's consent page: follows the link, allows or declines, is sent back."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

if TYPE_CHECKING:
    from http.client import HTTPResponse

_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
_WITHIN_S = 20.0


class _NotFollowed(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Leave a redirect to the test."""


def consent(link: str, *, realm_id: str = "", decision: str = "allow") -> str:
    """Submit the page's form, and return where the browser is sent then. An empty realm is a new company."""
    page = _open(link)
    fields = {name: unescape(value) for name, value in _HIDDEN.findall(page)}
    form = urlencode(fields | {"realm": realm_id, "decision": decision}).encode()
    browser = urllib.request.build_opener(_NotFollowed)
    with pytest.raises(urllib.error.HTTPError) as raised:
        browser.open(urllib.request.Request(link, data=form), timeout=_WITHIN_S)  # noqa: S310  # loopback
    redirect = raised.value
    redirect.close()
    assert redirect.code == 302
    return str(redirect.headers["Location"])


def follow(address: str) -> str:
    """Go where the browser was sent, and return the page there."""
    return _open(address)


def _open(address: str) -> str:
    answer: HTTPResponse
    with urllib.request.urlopen(address, timeout=_WITHIN_S) as answer:  # noqa: S310  # loopback
        return answer.read().decode()
