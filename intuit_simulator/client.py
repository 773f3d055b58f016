"""A typed client of a running simulator's admin API. Standard library only."""

import http.client
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

from intuit_simulator.grants import GrantState
from intuit_simulator.journal import Call, Check

_TIMEOUT_SECONDS: Final = 120


class SimulatorError(Exception):
    """The simulator refused an admin call; the message says why."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(f"{status}: {problem}")
        self.status = status
        self.problem = problem


@dataclass(frozen=True, slots=True)
class CreatedGrant:
    """A grant as an app would hold it after its consent."""

    realm_id: str
    refresh_token: str = field(repr=False)
    client_id: str
    access_token: str | None = field(default=None, repr=False)


class Simulator:
    """Arranges and observes a simulator. Thread-safe: each call has its own connection."""

    def __init__(self, base_url: str, admin_key: str, *, client_id: str = "", client_secret: str = "") -> None:
        self.base_url = base_url
        self.token_url = base_url + "/oauth2/v1/tokens/bearer"
        self.revoke_url = base_url + "/v2/oauth2/tokens/revoke"
        self.api_url = base_url
        self.authorize_url = base_url + "/connect/oauth2"
        self.discovery_url = base_url + "/.well-known/openid_configuration"
        self.admin_key = admin_key
        self.client_id = client_id
        self.client_secret = client_secret

    def settings(self) -> dict[str, str]:
        """Return the environment variables by which the worker of this project takes it for Intuit, secret and all."""
        return {
            "INTUIT_ENVIRONMENT": "sandbox",
            "INTUIT_CLIENT_ID": self.client_id,
            "INTUIT_CLIENT_SECRET": self.client_secret,
            "INTUIT_TOKEN_URL": self.token_url,
            "INTUIT_REVOKE_URL": self.revoke_url,
            "INTUIT_AUTHORIZE_URL": self.authorize_url,
            "INTUIT_API_URL": self.api_url,
        }

    def status(self) -> dict[str, Any]:
        """Return the time, the policy and some counts."""
        return self._object("GET", "status")

    def create_grants(
        self,
        count: int = 1,
        *,
        realm_ids: Iterable[str] | None = None,
        client_id: str | None = None,
        access_tokens: bool = False,
        granted_ago: float = 0,
        issued_ago: float = 0,
    ) -> list[CreatedGrant]:
        """Create grants, of these realms or of `count` new ones, consented and last rotated so many seconds ago."""
        options: dict[str, Any] = {
            "count": count,
            "access_tokens": access_tokens,
            "granted_ago": granted_ago,
            "issued_ago": issued_ago,
        }
        if realm_ids is not None:
            options["realm_ids"] = list(realm_ids)
        if client_id is not None:
            options["client_id"] = client_id
        return [CreatedGrant(**row) for row in self._lines("POST", "grants", options)]

    def create_grant(self, realm_id: str | None = None, **options: Any) -> CreatedGrant:
        """Create one grant; the options are those of create_grants."""
        return self.create_grants(realm_ids=[realm_id] if realm_id else None, **options)[0]

    def create_code(
        self, redirect_uri: str, *, realm_id: str | None = None, client_id: str | None = None
    ) -> tuple[str, str]:
        """Consent without a browser; return the authorization code and the realm id."""
        given = {"redirect_uri": redirect_uri, "realm_id": realm_id, "client_id": client_id}
        made = self._object("POST", "codes", {name: value for name, value in given.items() if value is not None})
        return made["code"], made["realm_id"]

    def revoke(self, *realm_ids: str, reason: str = "revoked by the user") -> None:
        """End the grants of these realms, as a disconnect within QuickBooks does."""
        self._object("POST", "revoke", {"realm_ids": realm_ids, "reason": reason})

    def state(self, realm_id: str) -> GrantState:
        """Return the state of the realm's newest grant."""
        return GrantState(**self._object("GET", "grants/" + quote(realm_id, safe="")))

    def states(self) -> Iterator[GrantState]:
        """Iterate over the states of all grants."""
        return (GrantState(**row) for row in self._lines("GET", "grants"))

    def set_policy(self, name: str, **settings: float) -> None:
        """Set the rotation policy: "strict", "grace", "reuse-revokes" or "daily", with settings of `policy.Policy`."""
        self._object("PUT", "policy", {"name": name, **settings})

    def now(self) -> float:
        """Return the simulator's time, seconds since 1970."""
        return float(self.status()["now"])

    def set_time(self, now: float) -> None:
        """Let the simulator's time be `now`, seconds since 1970; it goes on from there."""
        self._object("PUT", "time", {"now": now})

    def advance(self, seconds: float) -> None:
        """Move the simulator's time on."""
        self._object("PUT", "time", {"advance": seconds})

    def set_secrets(self, *secrets: str, client_id: str | None = None) -> None:
        """Make exactly these secrets of an app valid; several are a rotation, none locks it out."""
        self._object("PUT", "clients", {client_id or self.client_id: secrets})

    def fault(self, kind: str, *, realm_ids: str | Iterable[str] | None = None, **options: Any) -> str:
        """Put a fault in force and return its id; `faults.Fault` describes the options."""
        if realm_ids is not None:
            options["realms"] = realm_ids if isinstance(realm_ids, str) else list(realm_ids)
        return str(self._object("POST", "faults", {"kind": kind, **options})["id"])

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults in force, each with how often it was applied."""
        return list(self._lines("GET", "faults"))

    def clear_fault(self, fault_id: str) -> None:
        """Lift one fault; a freeze lets its calls go."""
        self._object("DELETE", "faults/" + quote(fault_id, safe=""))

    def clear_faults(self) -> None:
        """Lift all faults; freezes let their calls go."""
        self._object("DELETE", "faults")

    def journal(self, after: int = 0, limit: int | None = None) -> list[Call]:
        """Return the calls with a sequence above `after`, at most `limit` of them."""
        query = f"journal?after={after}" + (f"&limit={limit}" if limit is not None else "")
        return [Call(**row) for row in self._lines("GET", query)]

    def empty_journal(self, *, keeps: bool = True) -> None:
        """Begin a new journal, kept or not; its sequence starts at 1 again."""
        self._object("PUT", "journal", {"keeps": keeps})

    def check(self, after: int = 0) -> Check:
        """Return a summary of the calls with a sequence above `after`."""
        summary = self._object("GET", f"check?after={after}")
        summary["calls_per_grant"] = {int(calls): grants for calls, grants in summary["calls_per_grant"].items()}
        return Check(**summary)

    def in_flight(self) -> list[dict[str, Any]]:
        """Return the calls that have not ended: endpoint, started, realm_id, presented (a fingerprint), faults."""
        return list(self._lines("GET", "in-flight"))

    def reset(self) -> None:
        """Forget grants, faults, journal, time and policy; return to what it was started with."""
        self._object("POST", "reset")

    def _object(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self._call(method, path, body))
        return decoded

    def _lines(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._call(method, path, body).splitlines())

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_SECONDS)
        try:
            headers = {"Authorization": f"Bearer {self.admin_key}", "Content-Type": "application/json"}
            connection.request(method, "/_simulator/" + path, json.dumps(body or {}), headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise SimulatorError(response.status, _problem(answer))
        return answer


def _problem(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["problem"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode("utf-8", "replace")
