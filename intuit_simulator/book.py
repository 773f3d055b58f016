"""All grants of the provider, and what its token and revoke endpoints do to them. Pure; `now` is passed in."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from intuit_simulator import tokens
from intuit_simulator.grants import REMEMBERED, Grant, Token
from intuit_simulator.policy import Policy

CODE_SECONDS: Final = 600
_FIRST_REALM: Final = 9_130_350_000_000_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer."""

    status: int
    error: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A successful answer; lifetimes in seconds."""

    access_token: str = field(repr=False)
    token: Token = field(repr=False)
    expires_in: int
    refresh_expires_in: int
    hard_expires_in: int
    rotated: bool


@dataclass(frozen=True, slots=True)
class Code:
    """An authorization code that somebody consented to."""

    client_id: str
    realm_id: str
    redirect_uri: str
    issued_at: float


UNKNOWN_TOKEN: Final = Refusal(400, "invalid_grant", "Incorrect or invalid refresh token")
DEAD_TOKEN: Final = Refusal(400, "invalid_grant", "Token invalid")
OVERLAP: Final = Refusal(400, "invalid_grant")
OTHER_APP: Final = Refusal(400, "invalid_grant", "Incorrect Token type or clientID")
BAD_CODE: Final = Refusal(400, "invalid_grant", "Invalid authorization code")
OTHER_REDIRECT: Final = Refusal(400, "invalid_grant", "Invalid redirect_uri")
ALREADY_GONE: Final = Refusal(400, "invalid_grant", "Token invalid")


class Book:
    """The provider's records: grants, refresh tokens, codes."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._grants: dict[tuple[str, str], Grant] = {}
        self._by_realm: dict[str, Grant] = {}
        self._tokens: dict[str, Token] = {}
        self._by_access_key: dict[str, Grant] = {}
        self._codes: dict[str, Code] = {}
        self._next_realm = _FIRST_REALM

    def __len__(self) -> int:
        return len(self._grants)

    def grants(self) -> Iterator[Grant]:
        """Iterate over a copy of the newest grant of every app and realm."""
        return iter(list(self._grants.values()))

    def newest(self, realm_id: str) -> Grant | None:
        """Return the realm's newest grant, whichever app has it."""
        return self._by_realm.get(realm_id)

    def find(self, value: str) -> Token | None:
        """Return the refresh token with this value, replaced ones included."""
        return self._tokens.get(value)

    def owner(self, access_token: str) -> Grant | None:
        """Return the grant whose latest access token this is."""
        return self._by_access_key.get(tokens.key_of(access_token) or "")

    def accepts(self, access_token: str, now: float) -> Grant | None:
        """Return the grant of a living access token. Only a grant's latest lives, an hour at most, with its grant."""
        grant = self.owner(access_token)
        if grant is None or grant.why_over(self.policy, now):
            return None
        return grant if now < grant.access_issued_at + self.policy.access_seconds else None

    def free_realm(self) -> str:
        """Return a realm id that no grant has."""
        while True:
            self._next_realm += 1
            if str(self._next_realm) not in self._by_realm:
                return str(self._next_realm)

    def create(
        self, realm_id: str, client_id: str, now: float, *, granted_ago: float = 0, issued_ago: float = 0
    ) -> Grant:
        """Record consent, `granted_ago` and `issued_ago` seconds before now; an older grant of app and realm ends."""
        previous = self._grants.get((client_id, realm_id))
        if previous and previous.ended is None:
            previous.ended = "replaced by a later consent"
        grant = Grant(realm_id=realm_id, client_id=client_id, granted_at=now - max(granted_ago, issued_ago))
        self._issue(grant, now - issued_ago)
        self._grants[client_id, realm_id] = grant
        self._by_realm[realm_id] = grant
        return grant

    def create_code(self, client_id: str, realm_id: str, redirect_uri: str, now: float) -> str:
        """Record a consent that is yet to be exchanged; return its code."""
        code = tokens.authorization_code()
        self._codes[code] = Code(client_id, realm_id, redirect_uri, now)
        return code

    def code(self, value: str) -> Code | None:
        """Return the unspent code with this value."""
        return self._codes.get(value)

    def exchange(self, code: str, client_id: str, redirect_uri: str, now: float) -> Issued | Refusal:
        """Spend an authorization code; another app or another redirect_uri does not spend it."""
        found = self._codes.get(code)
        if found is None or now >= found.issued_at + CODE_SECONDS:
            return BAD_CODE
        if found.client_id != client_id:
            return OTHER_APP
        if found.redirect_uri != redirect_uri:
            return OTHER_REDIRECT
        del self._codes[code]
        grant = self.create(found.realm_id, client_id, now)
        return self.issue_access(grant, now, rotated=True)

    def refresh(self, token: Token | None, client_id: str, now: float, *, overlaps: bool = False) -> Issued | Refusal:
        """Do what a call with this token does under the policy."""
        if token is None:
            return UNKNOWN_TOKEN
        token.grant.calls += 1
        refusal = self._refusal(token, client_id, now, overlaps=overlaps)
        if refusal:
            token.grant.refusals += 1
            return refusal
        grant = token.grant
        rotated = grant.is_due_for_rotation(self.policy, now)
        if rotated:
            self._issue(grant, now)
            grant.rotations += 1
        grant.refreshes += 1
        return self.issue_access(grant, now, rotated=rotated)

    def revoke(self, value: str, client_id: str) -> Refusal | None:
        """End the grant that a refresh or access token belongs to; None when done."""
        token = self._tokens.get(value)
        grant = token.grant if token else self.owner(value)
        if grant is None or (token and token.superseded_at is not None and not self.policy.revoke_replaced):
            return ALREADY_GONE
        if grant.client_id != client_id:
            return OTHER_APP
        newest = self._grants[client_id, grant.realm_id]
        touched = [grant, newest] if self.policy.revoke_spreads else [grant]
        living = [each for each in touched if each.ended is None]
        for each in living:
            each.ended = "revoked by the app"
        return None if living else ALREADY_GONE

    def issue_access(self, grant: Grant, now: float, *, rotated: bool) -> Issued:
        """Make a new access token for a living grant and describe all its lifetimes."""
        self._by_access_key.pop(grant.access_key, None)
        grant.access_key, grant.access_issued_at = tokens.access_key(), now
        self._by_access_key[grant.access_key] = grant
        return Issued(
            access_token=tokens.access_token(grant.access_key, self.policy.access_token_length),
            token=grant.current,
            expires_in=self.policy.access_seconds,
            refresh_expires_in=int(grant.expires_at(self.policy) - now),
            hard_expires_in=int(grant.hard_expires_at(self.policy) - now),
            rotated=rotated,
        )

    def _refusal(self, token: Token, client_id: str, now: float, *, overlaps: bool) -> Refusal | None:
        grant = token.grant
        if grant.client_id != client_id:
            return OTHER_APP
        if overlaps and self.policy.reject_overlap:
            self._punish(grant)
            return OVERLAP
        if grant.why_over(self.policy, now):
            return DEAD_TOKEN
        if token.superseded_at is not None and now >= token.superseded_at + self.policy.grace_seconds:
            self._punish(grant)
            return DEAD_TOKEN
        return None

    def _punish(self, grant: Grant) -> None:
        if self.policy.reuse_revokes and grant.ended is None:
            grant.ended = "reuse of a token"

    def _issue(self, grant: Grant, now: float) -> None:
        """Make a new value the current one of the grant."""
        token = Token(tokens.refresh_token(now + self.policy.window_seconds), grant, now)
        if hasattr(grant, "current"):
            self._supersede(grant, now)
        grant.current = token
        self._tokens[token.value] = token

    def _supersede(self, grant: Grant, now: float) -> None:
        grant.current.superseded_at = now
        if len(grant.superseded) == REMEMBERED:
            del self._tokens[grant.superseded.pop(0).value]
        grant.superseded.append(grant.current)
