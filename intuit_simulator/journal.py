"""What the provider saw: one entry per token or revoke call, never a token in clear. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Call(NamedTuple):
    """One call to the token or revoke endpoint.

    Attributes:
        sequence: counts from 1 in the order in which calls ended.
        started: first byte of the request, by the machine's monotonic clock.
        ended: last byte of the answer, or when the call was given up.
        presented: fingerprint of the token or code presented.
        secret: fingerprint of the client secret presented.
        status: HTTP status answered, None if nothing was.
        issued: fingerprint of the refresh token that the call produced or returned, even if no answer carried it.
        rotated: whether the grant's refresh token changed.
        overlapped: whether another call with the same token was under way.
        superseded: whether the token presented had been replaced before.
        revoked_by_reuse: whether this call ended the grant.
        faults: the faults applied, as kind:id, separated by commas.
        written: whether the whole answer was handed to the client's connection.
    """

    sequence: int
    endpoint: str
    started: float
    ended: float
    realm_id: str | None
    presented: str | None
    grant_type: str | None
    client_id: str | None
    secret: str | None
    status: int | None
    error: str | None
    rotated: bool
    issued: str | None
    overlapped: bool
    superseded: bool
    revoked_by_reuse: bool
    faults: str | None
    written: bool


class Journal:
    """Calls in the order in which they ended. Exact tuples: Python's garbage collector does not have to visit them."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.keeps = keeps
        self.count = 0
        self._calls: list[tuple[Any, ...]] = []

    def append(self, call: Call) -> None:
        """Keep a call whose sequence is `count + 1`."""
        self.count += 1
        if self.keeps:
            self._calls.append(tuple(call))

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Call]:
        """Iterate over the calls with a sequence above `after`, at most `limit` of them."""
        end = len(self._calls) if limit is None else min(after + limit, len(self._calls))
        return (Call(*self._calls[index]) for index in range(after, end))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A summary of calls.

    Attributes:
        overlapping: calls that began while another with the same token was under way.
        presented_again: tokens that were presented by more than one refresh.
        superseded: calls that presented a token already replaced.
        revoked_by_reuse: grants that ended because a token was used twice.
        rotated_unwritten: calls that changed the token and whose answer was not written whole.
        calls_per_grant: how many grants had so many refresh calls.
        answers: calls by status and error, such as "200" or "400 invalid_grant"; "none" without an answer.
    """

    calls: int
    refreshes: int
    exchanges: int
    revocations: int
    overlapping: int
    presented_again: int
    superseded: int
    revoked_by_reuse: int
    rotated: int
    rotated_unwritten: int
    unwritten: int
    faulted: int
    grants: int
    calls_per_grant: dict[int, int]
    answers: dict[str, int]


def summarise(calls: Iterable[Call]) -> Check:
    """Count what matters to a client that must not call twice."""
    per_token: Counter[str] = Counter()
    per_realm: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    for call in calls:
        kinds[call.endpoint if call.endpoint == "revoke" else call.grant_type or ""] += 1
        answers[_answer(call)] += 1
        for flag in _flags(call):
            flags[flag] += 1
        if call.grant_type == "refresh_token":
            per_token[call.presented or ""] += 1
            per_realm[call.realm_id or ""] += 1
    per_realm.pop("", None)
    return Check(
        calls=kinds.total(),
        refreshes=kinds["refresh_token"],
        exchanges=kinds["authorization_code"],
        revocations=kinds["revoke"],
        overlapping=flags["overlapped"],
        presented_again=sum(1 for count in per_token.values() if count > 1),
        superseded=flags["superseded"],
        revoked_by_reuse=flags["revoked_by_reuse"],
        rotated=flags["rotated"],
        rotated_unwritten=flags["rotated_unwritten"],
        unwritten=flags["unwritten"],
        faulted=flags["faulted"],
        grants=len(per_realm),
        calls_per_grant=dict(sorted(Counter(per_realm.values()).items())),
        answers=dict(answers),
    )


def _answer(call: Call) -> str:
    if call.status is None:
        return "none"
    return f"{call.status} {call.error}" if call.error else str(call.status)


def _flags(call: Call) -> Iterator[str]:
    if call.overlapped:
        yield "overlapped"
    if call.superseded:
        yield "superseded"
    if call.revoked_by_reuse:
        yield "revoked_by_reuse"
    if call.faults:
        yield "faulted"
    if not call.written:
        yield "unwritten"
    if call.rotated:
        yield "rotated"
        if not call.written:
            yield "rotated_unwritten"
