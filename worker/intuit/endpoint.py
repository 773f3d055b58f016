"""Intuit's token and revoke endpoints: the real request, and the answer as a type of `worker.errors` or `TokenSet`."""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, quote_plus

from worker import clock, tokens
from worker.errors import (
    ClientRejected,
    Facts,
    GrantRejected,
    LeaseSpent,
    OutcomeUnknown,
    RequestRejected,
    Unavailable,
)
from worker.intuit.transport import IDLE_LIMIT_S, Call, Interrupted, NotSent, RawAnswer, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qbo_refresh.secret import Secret
    from worker.settings import Endpoint
    from worker.tokens import TokenSet

CLIENT_CODES = frozenset({"invalid_client", "unauthorized_client"})
# RFC 6749 section 5.2, less the two above and invalid_grant. Any other code is reported as `unheard_of`: what a
# stranger writes into an answer does not go into our ledger, logs and metrics.
_REQUEST_CODES = frozenset({"invalid_request", "invalid_scope", "unsupported_grant_type"})
PLAIN_JSON = {"Accept": "application/json", "Accept-Encoding": "identity"}
_LONGEST_TID = 100
_NOT_OF_A_TID = re.compile(r"[^0-9A-Za-z._-]+")


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether there is still time to send: asked at the first byte of every POST, after DNS, connect and TLS.

    Attributes:
        opened_at: `clock.boottime()` before the claim was sent to the database.
        lease: How long the claim holds from then on, at the least.
        deadline: How long one POST may take in total.
        slack: What must be left of the lease after that.
        boottime: The clock that says what is spent.
    """

    opened_at: float
    lease: timedelta
    deadline: timedelta
    slack: timedelta
    boottime: Callable[[], float] = field(default=clock.boottime, kw_only=True)

    def check(self) -> None:
        """Return if a POST that begins now ends well within the lease.

        Raises:
            LeaseSpent: It might not.
        """
        spent = self.boottime() - self.opened_at
        if spent + (self.deadline + self.slack).total_seconds() > self.lease.total_seconds():
            raise LeaseSpent


class TokenEndpoint(Protocol):
    """What the refresh use case needs of Intuit."""

    def refresh(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> TokenSet:
        """Present a refresh token once."""

    def exchange(
        self, code: Secret, *, redirect_url: str, client_id: str, client_secret: Secret, gate: Gate
    ) -> TokenSet:
        """Present an authorization code once."""

    def revoke(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> bool:
        """End a grant; True if it is gone."""

    def is_of_company(self, access_token: Secret, realm_id: Secret, *, environment: str, gate: Gate) -> bool | None:
        """Tell whether a grant is for this company; None if nobody can tell now."""


class IntuitEndpoint:
    """Intuit's endpoints. One HTTP session per thread: a new one for each call costs 20 ms of CPU over TLS."""

    def __init__(self, endpoint: Endpoint, *, idle_limit_s: float = IDLE_LIMIT_S) -> None:
        self._endpoint, self._idle_limit_s = endpoint, idle_limit_s
        self._local = threading.local()

    def refresh(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> TokenSet:
        """Present a refresh token once (RFC 6749 section 6).

        Raises:
            LeaseSpent: The gate was shut at the first byte; nothing was sent.
            Unavailable: Nothing was sent, or Intuit said 429.
            OutcomeUnknown: Sent, and no usable answer.
            GrantRejected: 400 `invalid_grant`.
            ClientRejected: Our id or secret was refused.
            RequestRejected: Any other refusal.
        """
        form = f"grant_type=refresh_token&refresh_token={quote_plus(refresh_token.reveal())}"
        return self._ask_for_tokens(form, client_id, client_secret, gate)

    def exchange(
        self, code: Secret, *, redirect_url: str, client_id: str, client_secret: Secret, gate: Gate
    ) -> TokenSet:
        """Present an authorization code once (RFC 6749 section 4.1.3). Raises as `refresh` does.

        Args:
            code: What the redirect brought.
            redirect_url: The very same one that the authorize URL named.
            client_id: The app's.
            client_secret: One of its secrets.
            gate: Whether there is still time.
        """
        form = f"grant_type=authorization_code&code={quote_plus(code.reveal())}&redirect_uri={quote_plus(redirect_url)}"
        return self._ask_for_tokens(form, client_id, client_secret, gate)

    def _ask_for_tokens(self, form: str, client_id: str, client_secret: Secret, gate: Gate) -> TokenSet:
        answer = self._post(
            self._endpoint.token_url,
            {**form_of(client_id, client_secret), "x-include-refresh-token-hard-expires-in": "true"},
            form.encode(),
            gate,
        )
        return classify(answer)

    def revoke(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> bool:
        """End a grant at Intuit. True if it is gone; see `is_gone`.

        Raises:
            LeaseSpent, Unavailable, OutcomeUnknown: As `refresh` does.
        """
        body = json.dumps({"token": refresh_token.reveal()}).encode()
        headers = {**form_of(client_id, client_secret), "Content-Type": "application/json"}
        answer = self._post(self._endpoint.revoke_url, headers, body, gate)
        return is_gone(answer)

    def is_of_company(self, access_token: Secret, realm_id: Secret, *, environment: str, gate: Gate) -> bool | None:
        """Ask QuickBooks for the company's own record: it answers only to a token of that company.

        None if nobody can tell now: no answer, too little of the lease left, or any other answer than 200, 401 and 403.
        """
        realm = quote(realm_id.reveal(), safe="")
        if not realm.strip("."):
            return False  # no company, and in a path another place
        url = f"{self._endpoint.api_urls[environment]}/v3/company/{realm}/companyinfo/{realm}"
        headers = {"Authorization": f"Bearer {access_token.reveal()}", **PLAIN_JSON}
        try:
            answer = self._transport().get(url, headers=headers, call=self._call(gate))
        except (NotSent, Interrupted, LeaseSpent):
            return None
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return False
        return True if answer.status == HTTPStatus.OK else None

    def _call(self, gate: Gate) -> Call:
        return Call(clock.boottime() + gate.deadline.total_seconds(), gate.check, self._idle_limit_s)

    def _post(self, url: str, headers: Mapping[str, str], body: bytes, gate: Gate) -> RawAnswer:
        try:
            return self._transport().post(url, headers=headers, body=body, call=self._call(gate))
        except NotSent:
            raise Unavailable("unreachable") from None
        except Interrupted:
            raise OutcomeUnknown("no_answer") from None

    def _transport(self) -> Transport:
        try:
            transport: Transport = self._local.transport
        except AttributeError:
            transport = self._local.transport = Transport()
        return transport


def form_of(client_id: str, client_secret: Secret) -> dict[str, str]:
    """Return the headers of a form that this client sends (RFC 6749 section 2.3.1)."""
    return {
        "Authorization": _basic(client_id, client_secret),
        "Content-Type": "application/x-www-form-urlencoded",
        **PLAIN_JSON,
    }


def _basic(client_id: str, client_secret: Secret) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{client_secret.reveal()}".encode()).decode()


def classify(answer: RawAnswer) -> TokenSet:
    """Return the tokens of an answer, or raise what it means instead.

    By allow-list: what is not known to be unprocessed is OutcomeUnknown. An error in the wrong place (an
    `invalid_grant` in a 500, say) or in odd case is not that error.
    """
    facts = Facts(answer.status, _tid(answer.headers), answer.last_byte_at)
    text = answer.body.decode("utf-8", "replace")
    body = tokens.decode(text) if answer.complete else None
    match answer.status:
        case HTTPStatus.OK:
            found = tokens.parse(body, facts) if body is not None else None
            if found is None:
                raise OutcomeUnknown("broken_answer", facts, salvaged=tokens.salvage(text))
            return found
        case HTTPStatus.TOO_MANY_REQUESTS:
            raise Unavailable("throttled", facts, retry_after=retry_after(answer.headers))
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNAUTHORIZED if body is not None and isinstance(
            body.get("error"), str
        ):
            raise _refusal(answer.status, body["error"], str(body.get("error_description", "")), facts)
        case _:
            raise OutcomeUnknown("no_usable_answer", facts, retry_after=retry_after(answer.headers))


def is_gone(answer: RawAnswer) -> bool:
    """Tell whether a revoke endpoint's answer says that the token is dead: ended now, or not known there any more.

    Intuit's 400 for a token that was revoked before comes without a body (intuit/oauth-jsclient, issues 18 and 71); RFC
    6749 and 6750 have names for it. Any other 400 may come of an outage or of our keys, and the grant may live.
    """
    if answer.status == HTTPStatus.OK:
        return True
    if answer.status != HTTPStatus.BAD_REQUEST or not answer.complete:
        return False
    body = tokens.decode(answer.body.decode("utf-8", "replace"))
    if body is None:
        return not answer.body.strip()
    error, description = str(body.get("error")), str(body.get("error_description", ""))
    return error in {"invalid_grant", "invalid_token"} and not _is_of_our_keys(description)


def _is_of_our_keys(description: str) -> bool:
    return "clientid" in description.lower().replace(" ", "")


def _refusal(
    status: int, code: str, description: str, facts: Facts
) -> GrantRejected | ClientRejected | RequestRejected:
    if code == "invalid_grant" and status == HTTPStatus.BAD_REQUEST:
        return GrantRejected(facts, perhaps_our_keys=_is_of_our_keys(description))
    if code in CLIENT_CODES:
        return ClientRejected(code, facts)
    return RequestRejected(code if code in _REQUEST_CODES else "unheard_of", facts)


def _tid(headers: Mapping[str, str]) -> str | None:
    return _NOT_OF_A_TID.sub("", headers.get("intuit_tid", ""))[:_LONGEST_TID] or None


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Return what Retry-After asks for, as seconds or as a date (RFC 9110 section 10.2.3); None if it is no such thing.

    A date counts from the answer's own Date header, so that no clock of ours comes into it.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value.lstrip("0")[:10] or "0"), 10**9))
    try:
        then = parsedate_to_datetime(value)
        start = parsedate_to_datetime(headers["date"]) if "date" in headers else clock.now()
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return max(_aware(then) - _aware(start), timedelta(0))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
