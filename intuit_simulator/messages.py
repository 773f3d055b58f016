"""Intuit's requests and answers as bytes: reading forms, writing heads and JSON. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

from intuit_simulator import tokens
from intuit_simulator.book import Issued, Refusal
from intuit_simulator.faults import Fault

JSON_TYPE: Final = "application/json;charset=UTF-8"
FORM_TYPE: Final = "application/x-www-form-urlencoded"
HARD_EXPIRY_HEADER: Final = "x-include-refresh-token-hard-expires-in"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to be sent. A gateway's page has no transaction id."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()
    error: str | None = None
    has_tid: bool = True

    def head(self, now: float, *, keep_alive: bool) -> bytes:
        """Return the status line and the headers."""
        lines = [
            f"HTTP/1.1 {self.status} {_reason(self.status)}\r\nDate: {_date(int(now))}\r\n",
            f"Content-Type: {self.content_type}\r\nCache-Control: no-cache, no-store\r\nPragma: no-cache\r\n",
        ]
        if self.has_tid:
            lines.append(f"intuit_tid: {tokens.transaction_id(now)}\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append(
            f"Content-Length: {len(self.body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        )
        return "".join(lines).encode("latin-1", "replace")


def parse_form(content_type: str, body: bytes) -> dict[str, str] | None:
    """Read a form; None if it is not one, or names a parameter twice (RFC 6749 section 3.2)."""
    if not content_type.lower().startswith(FORM_TYPE):
        return None
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=50)
    except ValueError:
        return None
    form = dict(pairs)
    return form if len(form) == len(pairs) else None


def success(issued: Issued, *, tells_hard_expiry: bool) -> dict[str, Any]:
    """Return the fields of a token answer."""
    answer: dict[str, Any] = {
        "token_type": "bearer",
        "expires_in": issued.expires_in,
        "refresh_token": issued.token.value,
        "x_refresh_token_expires_in": issued.refresh_expires_in,
        "access_token": issued.access_token,
    }
    if tells_hard_expiry:
        answer["x_refresh_token_hard_expires_in"] = issued.hard_expires_in
    return answer


def encode(answer: Mapping[str, Any]) -> bytes:
    """Return JSON as Intuit writes it, without spaces."""
    return json.dumps(answer, separators=(",", ":")).encode()


def refusal(refused: Refusal) -> Reply:
    """Return the answer for a refusal."""
    return Reply(refused.status, _error_body(refused.error, refused.description), error=refused.error)


def faulty(fault: Fault) -> Reply:
    """Return the answer that an `answer` fault prescribes."""
    if fault.body is not None:
        body = fault.body.encode()
    else:
        body = _error_body(fault.error or _usual_error(fault.status), fault.description)
    extra = dict(fault.headers)
    if fault.retry_after is not None:
        extra["Retry-After"] = fault.retry_after
    if fault.location is not None:
        extra["Location"] = fault.location
    error = None if fault.body is not None else fault.error or _usual_error(fault.status)
    return Reply(fault.status, body, fault.content_type, tuple(extra.items()), error, has_tid=fault.body is None)


def overridden(answer: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
    """Return a good answer's fields with the fault's changes."""
    return {name: value for name, value in {**answer, **fault.fields}.items() if name not in fault.remove}


def _error_body(error: str, description: str | None) -> bytes:
    answer = {"error": error}
    if description is not None:
        answer["error_description"] = description
    return encode(answer)


def _usual_error(status: int) -> str:
    return {400: "invalid_request", 401: "invalid_client", 429: "throttled", 503: "temporarily_unavailable"}.get(
        status, "server_error"
    )


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


@lru_cache(maxsize=4)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)
