"""A customer with a browser, made of `requests`: follows links and fills in the simulator's consent page."""

from __future__ import annotations

import html
import re
from urllib.parse import urljoin

import requests

_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')
_WITHIN_S = 20


class Browser:
    """One browser session, cookies and all."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False

    def read(self, address: str) -> str:
        """Return a page."""
        answer = self._session.get(address, timeout=_WITHIN_S)
        answer.raise_for_status()
        return answer.text

    def consent(self, link: str, *, realm_id: str = "") -> tuple[int, str]:
        """Follow a link to connect, allow it for a company, and return the status and text of where that ends.

        Args:
            link: The host's; it leads to the consent page.
            realm_id: The company; empty for a new one.
        """
        page = self._session.get(link, timeout=_WITHIN_S)
        page.raise_for_status()
        form = {name: html.unescape(value) for name, value in _HIDDEN.findall(page.text)}
        form |= {"realm": realm_id, "decision": "allow"}
        answer = self._session.post(page.url, data=form, timeout=_WITHIN_S)
        while answer.status_code == requests.codes.accepted:  # "One moment …": the page asks to be loaded again
            answer = self._session.get(answer.url, timeout=_WITHIN_S)
        return answer.status_code, answer.text


def link_of(page: str, base: str, words: str) -> str | None:
    """Return where the first link with such words in its address leads, None if there is none."""
    found = re.search(rf'href="([^"]*{re.escape(words)}[^"]*)"', page)
    return urljoin(base, html.unescape(found[1])) if found else None
