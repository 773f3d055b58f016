"""Whether Intuit takes a client id and secret, asked with a made-up authorization code: no token is involved."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from worker import clock, tokens
from worker.intuit.endpoint import CLIENT_CODES, form_of
from worker.intuit.transport import Call, Interrupted, NotSent, Transport

if TYPE_CHECKING:
    from datetime import datetime

    from qbo_refresh.secret import Secret

WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What Intuit made of a client id and secret.

    Attributes:
        accepted: It refused the code and not them.
        text: In words, without anything of the answer but known codes.
        reached: Something listened: without, nothing is told about id and secret.
        date: The answer's Date header; None without one.
    """

    accepted: bool
    text: str
    date: datetime | None
    reached: bool = True


def ask(token_url: str, *, client_id: str, client_secret: Secret) -> Verdict:
    """Present a made-up code once. 400 means that id and secret are good, 401 that they are not."""
    form = {
        "grant_type": "authorization_code",
        "code": f"doctor-{secrets.token_hex(8)}",
        "redirect_uri": "https://localhost/doctor",
    }
    headers = form_of(client_id, client_secret)
    transport = Transport()
    try:
        call = Call(clock.boottime() + WITHIN_S, lambda: None)
        answer = transport.post(token_url, headers=headers, body=urlencode(form).encode(), call=call)
    except NotSent:
        return Verdict(accepted=False, text=_unreached(token_url), date=None, reached=False)
    except Interrupted:
        return Verdict(accepted=False, text=f"no answer within {WITHIN_S:.0f} s: try again later.", date=None)
    finally:
        transport.close()
    date = _date(answer.headers.get("date", ""))
    body = tokens.decode(answer.body.decode("utf-8", "replace")) or {}
    if answer.status == HTTPStatus.UNAUTHORIZED or body.get("error") in CLIENT_CODES:
        return Verdict(
            accepted=False, text="Intuit refuses the id or the secret: copy both from Keys and credentials.", date=date
        )
    if answer.status == HTTPStatus.BAD_REQUEST and "error" in body:
        return Verdict(accepted=True, text="accepted", date=date)
    text = f"HTTP status {answer.status} says neither yes nor no: try again later."
    return Verdict(accepted=False, text=text, date=date)


def _unreached(token_url: str) -> str:
    parts = urlsplit(token_url)
    if (parts.hostname or "").endswith(".intuit.com"):
        return "Intuit cannot be reached: is there a way out to the Internet?"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"INTUIT_TOKEN_URL's {parts.hostname}:{port} cannot be reached: is the simulator running?"


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError):
        return None
    return date if date.tzinfo else None
