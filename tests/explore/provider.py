"""Intuit in memory: the simulator's records and rules, the worker's own reading of the answers, no HTTP between."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from intuit_simulator import messages
from intuit_simulator.book import Book, Issued, Refusal
from intuit_simulator.policy import PRESETS, PolicyName
from worker.intuit.endpoint import classify
from worker.intuit.transport import RawAnswer

if TYPE_CHECKING:
    from intuit_simulator.grants import Grant
    from qbo_refresh.secret import Secret
    from worker.intuit import Gate
    from worker.tokens import TokenSet

CLIENT_ID = "a-client"
REALM_ID = "9130350000000001"


class Provider:
    """One provider with one grant.

    Attributes:
        overlapping: Calls that began while another with the same token was open.
        open: Tokens whose calls have not been answered.
        late: Tokens whose requests the network has kept back.
    """

    def __init__(self, policy: PolicyName) -> None:
        self.policy = replace(PRESETS[policy], access_token_length=64)
        self.seconds = 0.0
        self.book = Book(self.policy)
        self.grant: Grant = self.book.create(REALM_ID, CLIENT_ID, 0.0)
        self.overlapping = 0
        self.open: tuple[str, ...] = ()
        self.late: tuple[str, ...] = ()
        self._saved: bytes | None = None

    def arrive(self, value: str) -> Issued | Refusal:
        """Take a request, do what it asks for, and leave it open until its answer has been written."""
        self._saved = None
        token = self.book.find(value)
        overlaps = token.begin_call(self.seconds) if token else False
        self.overlapping += overlaps
        self.open += (value,)
        return self.book.refresh(token, CLIENT_ID, self.seconds, overlaps=overlaps)

    def end(self, value: str) -> None:
        """Note that a call's answer has been written, or will never be."""
        if value not in self.open:
            return  # it was over before somebody looked
        self._saved = None
        open_now = list(self.open)
        open_now.remove(value)
        self.open = tuple(open_now)
        token = self.book.find(value)
        if token:
            token.end_call(self.seconds)

    def keep_back(self, value: str) -> None:
        """Take a request that arrives only after its sender has given up."""
        self._saved = None
        self.late += (value,)

    def let_pass(self) -> None:
        """Let what is under way be over: a call ends within 20 s, a late request arrives before the lease is over."""
        while self.open:
            self.end(self.open[0])
        while self.late:
            value, self.late = self.late[0], self.late[1:]
            self.arrive(value)
            self.end(value)

    def accepts(self, value: str) -> bool:
        """Tell whether a call with this token would bring tokens now."""
        token = self.book.find(value)
        if token is None or token.grant.why_over(self.policy, self.seconds):
            return False
        return token.superseded_at is None or self.seconds < token.superseded_at + self.policy.grace_seconds

    @property
    def current(self) -> str:
        """The grant's newest token."""
        return self.grant.current.value

    @property
    def values(self) -> list[str]:
        """All tokens that the grant ever had, oldest first."""
        return [*(token.value for token in self.grant.superseded), self.grant.current.value]

    @property
    def is_alive(self) -> bool:
        """Whether the grant lives."""
        return self.grant.why_over(self.policy, self.seconds) is None

    def save(self) -> bytes:
        """Return the records."""
        if self._saved is None:
            self._saved = pickle.dumps((self.book, self.grant, self.overlapping, self.open, self.late))
        return self._saved

    def restore(self, saved: bytes) -> None:
        """Put the records back."""
        if saved is not self._saved:
            self.book, self.grant, self.overlapping, self.open, self.late = pickle.loads(saved)  # noqa: S301  # our own
            self._saved = saved


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is written: its status and body, and the refresh token in it, if there is one."""

    status: int
    body: bytes
    token: str | None = None


def reply(answer: Issued | Refusal) -> Reply:
    """Return what Intuit writes."""
    if isinstance(answer, Refusal):
        refused = messages.refusal(answer)
        return Reply(refused.status, refused.body)
    body = messages.encode(messages.success(answer, tells_hard_expiry=True))
    return Reply(200, body, answer.token.value)


def read(written: Reply, at: float, *, whole: bool = True) -> TokenSet:
    """Return what the worker makes of an answer; of one that is not whole it reads the refresh token and no more.

    Raises:
        IntuitError: As `IntuitEndpoint.refresh` does.
    """
    body = written.body if whole else written.body.partition(b',"x_refresh')[0]
    return classify(RawAnswer(written.status, {}, body, complete=whole, last_byte_at=at))


class MemoryIntuit:
    """Implements `worker.intuit.TokenEndpoint` on a provider, without faults."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def refresh(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> TokenSet:
        """Present a refresh token once."""
        del client_id, client_secret
        gate.check()
        value = refresh_token.reveal()
        answer = self._provider.arrive(value)
        self._provider.end(value)
        return read(reply(answer), self._provider.seconds)

    def exchange(self, *_: object, **__: object) -> TokenSet:
        """Nobody consents here."""
        raise AssertionError("nobody consents here")

    def is_of_company(self, *_: object, **__: object) -> bool:
        """Nobody consents here."""
        raise AssertionError("nobody consents here")

    def revoke(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> bool:
        """End the grant."""
        del client_secret
        gate.check()
        return self._provider.book.revoke(refresh_token.reveal(), client_id) is None
