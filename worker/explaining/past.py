"""What happened: attempts, candidates and events in the order of time, ordinary successes in a row as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Outcome
from worker.moments import exactly, long

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from worker.store.history import Attempt, Candidate, Story, Told

_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened, in words.

    Attributes:
        facts: Who and how, for those who look further; empty if there is no more.
    """

    at: datetime
    words: str
    facts: str = ""


def timeline(story: Story) -> list[Entry]:
    """Return what happened, oldest first."""
    made = [] if story.row is None else [Entry(story.row.created_at, "The connection was made here.")]
    entries = [*_attempts(story), *_candidates(story.candidates), *map(_event, story.events)]
    if story.earlier and entries:
        made = []
    return [*made, *sorted(entries, key=lambda entry: entry.at)]


def _attempts(story: Story) -> Iterator[Entry]:
    others = sorted([each.created_at for each in story.events] + [each.received_at for each in story.candidates])
    run: list[Attempt] = []
    before: Attempt | None = None
    for attempt in story.attempts:
        between = run and any(run[-1].began_at < moment <= attempt.began_at for moment in others)
        if run and (between or not _is_ordinary(attempt, before)):
            yield from _together(run)
            run = []
        if _is_ordinary(attempt, before):
            run.append(attempt)
        else:
            yield _attempt(attempt, before)
        before = attempt
    yield from _together(run)


def _is_ordinary(attempt: Attempt, before: Attempt | None) -> bool:
    return (
        (attempt.outcome, attempt.reason, attempt.trigger) == (Outcome.REFRESHED, None, "sweep")
        and attempt.secret != "previous"  # noqa: S105  # the name of a secret
        and (before is None or before.outcome == Outcome.REFRESHED)
    )


def _together(run: Sequence[Attempt]) -> Iterable[Entry]:
    if len(run) < _IN_A_ROW:
        return [_attempt(each, None) for each in run]
    rotated, slowest = sum(bool(each.rotated) for each in run), max(each.duration_ms or 0 for each in run)
    words = f"{len(run)} refreshes until {exactly(run[-1].began_at)}, every one well."
    return [Entry(run[0].began_at, words, f"a new refresh token {rotated} times; {slowest} ms at most; all by sweeps")]


def _attempt(attempt: Attempt, before: Attempt | None) -> Entry:
    return Entry(attempt.began_at, _words(attempt, before), _facts(attempt))


def _facts(attempt: Attempt) -> str:
    parts = [f"{attempt.trigger} by {attempt.worker or 'an unknown worker'}"]
    if attempt.http_status is not None:
        parts.append(f"HTTP {attempt.http_status}")
    if attempt.duration_ms is not None:
        parts.append(f"{attempt.duration_ms} ms")
    if attempt.posts is not None and attempt.posts != 1:
        parts.append(f"{attempt.posts} calls" if attempt.posts else "no call")
    if attempt.secret == "previous":  # noqa: S105  # the name of a secret
        parts.append("with the previous client secret")
    if attempt.intuit_tid:
        parts.append(f"intuit_tid {attempt.intuit_tid}")
    return ", ".join(parts)


WITHHELD = {
    "lease": "whoever held the lease before had not given it back, and might yet have come with the live token",
    "candidate": "a token that may be the live one has not been tried",
    "refused_once": "a token that may be the live one has been refused only once so far",
    "epoch": "the database failed over or was restored within a day, so that the row's token may be an old one",
    "guard": "too many connections of the app were refused at once for it to be their customers' doing",
    "witness": "no other connection of the app has worked since, so that perhaps none would",
    "previous": "the previous token had not been tried again",
}
_DEFERRED = {
    "unknown": "Sent, and no usable answer came: the token may be spent. In doubt; presented again after the lease.",
    "unreachable": "Intuit could not be reached: nothing was sent, nothing is spent. A pause, then again.",
    "throttled": "Intuit asked for a pause: the whole app waits.",
    "lease_spent": "It took so long to connect that too little of the lease was left: nothing was sent.",
    "escrow_silent": "Not sent: after the database's change the escrow must be asked first, and Redis was away.",
    "wrong_client": "Refused in words that blame our client id: no verdict is made of that. A pause, then again.",
}


def _words(attempt: Attempt, before: Attempt | None) -> str:  # noqa: PLR0911  # one sentence for each outcome
    reason = attempt.reason or "no reason noted"
    lost = " An answer that never reached us may have had the live token." if reason == "answer_lost" else ""
    match attempt.outcome:
        case Outcome.REFRESHED:
            what = "a new refresh token" if attempt.rotated else "the same refresh token"
            odd = " Intuit's lifetimes were odd and were held within bounds." if reason == "lifetimes_clamped" else ""
            mended = "" if before is None or before.outcome == Outcome.REFRESHED else " That ended the trouble."
            return f"Refreshed, {what}.{odd}{mended}"
        case Outcome.DEFERRED:
            refused = f"Refused with {reason}, which is about our request or app and not about the grant. A pause."
            return _DEFERRED.get(reason, refused)
        case Outcome.BLOCKED:
            return f"Intuit refused our client secret ({reason}). Nothing changed for this connection."
        case Outcome.SUSPECT if attempt.withheld:
            why = WITHHELD.get(attempt.withheld, attempt.withheld)
            return f"Refused again ({reason}). No verdict was made of it: {why}.{lost}"
        case Outcome.SUSPECT:
            again = before is not None and before.outcome == Outcome.SUSPECT
            first = "Refused once more, too soon to be a verdict" if again else "Intuit refused the grant"
            return f"{first} ({reason}): suspect. Syncs wait quietly; it is asked again.{lost}"
        case Outcome.NEEDS_REAUTH:
            still = before is not None and before.outcome == Outcome.NEEDS_REAUTH
            if still:
                return f"Second chance: still refused ({reason}). It stays needs_reauth."
            return f"Refused again ({reason}), and nothing stood against it: needs_reauth. Syncs stop.{lost}"
        case Outcome.UNREADABLE:
            return "Not sent: its refresh token does not open with the keys in TOKEN_KEYS. An hour's pause."
        case Outcome.ABANDONED:
            return "The worker died or froze before it could say what came of it. In doubt; the next attempt found it."
    return f"{attempt.outcome} ({reason})."


_SOURCES = {
    "late_save": "from an attempt that was overtaken",
    "refused_save": "from a save that PostgreSQL refused",
    "salvage": "read out of a broken answer",
    "escrow": "found in the escrow in Redis",
    "previous": "the one before the row's",
    "import": "from an import",
}


def _candidates(candidates: Iterable[Candidate]) -> Iterator[Entry]:
    for each in candidates:
        source = _SOURCES.get(each.source, each.source)
        state = "not tried yet"
        if each.settled_at:
            state = f"settled by a success {exactly(each.settled_at)}"
        elif each.tried_at:
            state = f"refused {exactly(each.tried_at)}"
        yield Entry(each.received_at, f"A token that may be the live one was kept, {source}: {state}.")


# ROW_UNREADABLE is of no connection since migration 0003: its words are for events that were written before.
_EVENTS = {
    Event.NEEDS_REAUTH: "the customer must reconnect",
    Event.RECOVERED: "the connection works again",
    Event.RECONNECTED: "the customer reconnected",
    Event.DISCONNECTED: "the connection was ended",
    Event.EXPIRING: "the grant's five years end",
    Event.SYNC_PAUSED: "syncs stop",
    Event.SYNC_RESUMED: "syncs go on",
    Event.ROW_UNREADABLE: "its token does not open (for operators)",
    Event.SECOND_WRITER: "somebody else refreshes this grant, too (for operators)",
}


def _event(told: Told) -> Entry:
    meaning = next((words for event, words in _EVENTS.items() if event == told.type), "")
    shown = {name: value for name, value in told.payload.items() if name in _SHOWN and value is not False}
    payload = ", ".join(name if value is True else f"{name} {value}" for name, value in shown.items())
    delivered = "not delivered yet"
    if told.delivered_at is not None:
        delivered = f"delivered after {long(told.delivered_at - told.created_at)}"
    words = f"Told: {told.type}{f', {meaning}' if meaning else ''}."
    return Entry(told.created_at, words, f"{payload}, {delivered}" if payload else delivered)


# What a payload may say here; a reconnect link, say, is the host's and not for a terminal.
_SHOWN = frozenset({"reason", "days", "hard_expires_at", "hard_expires_inferred", "seen", "we_refreshed_last_at"})
