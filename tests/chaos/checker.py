"""Decides on a history what was kept of the promises. Pure: what it finds can be planted."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbo_refresh.status import Event as Events
from qbo_refresh.status import Status
from tests.chaos import lease
from tests.chaos.excuses import consent_of, why_asked_again, why_lost, why_two_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.chaos.history import Call, Event, History, Row

# A sweep a second, some messages before it in the queue, and a busy machine.
OVERDUE_S = 10.0


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept.

    Attributes:
        promise: For programs.
        words: What happened, for people.
    """

    promise: str
    words: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a token that the row does not hold.

    Attributes:
        excuse: Why it never reached us; None if it did, or if nothing explains it.
    """

    connection_id: int
    at: float
    excuse: str | None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker says.

    Attributes:
        lost: Tokens that are gone because their answer never arrived, by the reason.
        true_verdicts: `needs_reauth` for grants that had ended.
        excused_verdicts: For grants whose token was lost on the way.
        punished: Grants that a provider ended for a replaced token, by what excuses that it was presented.
        overlaps: Calls that met an earlier one with their token, by what excuses it.
    """

    violations: tuple[Violation, ...]
    lost: Mapping[str, int]
    true_verdicts: int
    excused_verdicts: int
    punished: Mapping[str, int] = field(default_factory=dict)
    overlaps: Mapping[str, int] = field(default_factory=dict)

    def count(self, promise: str) -> int:
        """Return how often a promise was broken."""
        return sum(violation.promise == promise for violation in self.violations)


def check(history: History) -> Verdict:
    """Judge one run."""
    issued = _issued(history)
    verdicts = list(_verdicts(history, issued))
    excused = [found for found in verdicts if found is not None and found.excuse is not None]
    at_end = list(_not_current(history, issued))
    lost = Counter(found.excuse for found in (*excused, *at_end) if found.excuse is not None)
    punished = list(_punished(history))
    overlaps = [(call, why_two_at_once(history, call)) for call in history.calls if call.overlapped]
    lost_consents = list(_lost_consents(history, issued))
    lost.update(found.excuse for found in lost_consents if found.excuse is not None)
    violations = (
        *(_two_at_once(history, call) for call, excuse in overlaps if excuse is None),
        *(Violation("sent_in_lease", words) for words in lease.sent_without(history)),
        *(Violation("saved_once", words) for words in lease.saved_over(history)),
        *(Violation("not_before", words) for words in lease.asked_early(history)),
        *(Violation("grant_punished", found.words) for found in punished if found.excuse is None),
        *(Violation("consent_lost", found.words) for found in lost_consents if found.excuse is None),
        *_false(verdicts),
        *(Violation("token_lost", found.words) for found in at_end if found.excuse is None),
        *_standing(history),
        *_events(history),
        *_overdue(history),
        *(Violation("caller_surprised", words) for words in history.surprises),
        *(Violation("not_settled", words) for words in history.restless),
        *(Violation("nothing_in_clear", f"a token or a realm id in {name}") for name in history.in_clear),
    )
    by_excuse = Counter(found.excuse for found in punished if found.excuse is not None)
    return Verdict(
        violations,
        dict(lost.most_common()),
        verdicts.count(None),
        len(excused),
        punished=dict(by_excuse),
        overlaps=dict(Counter(excuse for _, excuse in overlaps if excuse is not None)),
    )


def _issued(history: History) -> dict[int, list[Call]]:
    """Return by connection the calls that brought a new token into the world, in order."""
    issued: dict[int, list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.rotated and call.issued is not None and call.connection_id is not None:
            issued[call.connection_id].append(call)
    return issued


def _two_at_once(history: History, call: Call) -> Violation:
    when = f"{call.started - history.began:.3f} s"
    words = f"call {call.sequence} for connection {call.connection_id} at {when} met another with the same token"
    return Violation("never_two_at_once", words)


def _verdicts(history: History, issued: Mapping[int, list[Call]]) -> Iterator[Finding | None]:
    """Yield None for a verdict about a grant that had ended, and a finding for each about one that lived."""
    for event in history.events:
        if event.type != Events.NEEDS_REAUTH or event.connection_id is None:
            continue
        calls = issued.get(event.connection_id, [])
        before = [call for call in calls if call.ended <= event.at]
        if _had_ended(history, event, before):
            yield None
            continue
        last = before[-1] if before else None
        # A new consent ends the older grant whatever is honoured: nothing lives on where the answer to a code was lost.
        honoured = last is not None and last.endpoint == "refresh" and _in_grace(history, event.at)
        excuse = None if last is None or _had(history, last) or honoured else why_lost(history, last)
        when = f"{event.at - history.began:.3f} s"
        held = "whose token we held" if last is None or _had(history, last) else "whose token was lost unexplained"
        yield Finding(
            event.connection_id,
            event.at,
            excuse,
            f"connection {event.connection_id}, {held} and whose grant lived, was called needs_reauth at {when}"
            f" (last issued by call {last.sequence if last else None})",
        )


def _false(verdicts: list[Finding | None]) -> Iterator[Violation]:
    for found in verdicts:
        if found is not None and found.excuse is None:
            yield Violation("no_false_verdict", found.words)


def _punished(history: History) -> Iterator[Finding]:
    for call in history.calls:
        if call.punished and call.connection_id is not None:
            words = (
                f"call {call.sequence} at {call.started - history.began:.3f} s presented a replaced token of connection"
                f" {call.connection_id}, and the provider ended the grant"
            )
            yield Finding(call.connection_id, call.ended, why_asked_again(history, call), words)


def _lost_consents(history: History, issued: Mapping[int, list[Call]]) -> Iterator[Finding]:
    for consent in history.consented:
        if not consent.lost or consent.finished is None or consent.presented is None:
            continue
        since, until = consent.presented - 0.05, consent.finished
        # What a later code has brought is no answer to this one, whatever came of it.
        calls = [
            call
            for call in issued.get(consent.connection_id, ())
            if since <= call.started <= until and call.endpoint == "exchange" and consent_of(history, call) is consent
        ]
        if not calls:
            continue
        words = f"the consent of connection {consent.connection_id} was called lost at {until - history.began:.3f} s"
        excuse = None if calls[-1].issued in history.known else why_lost(history, calls[-1])
        yield Finding(consent.connection_id, until, excuse, words)


def _had_ended(history: History, event: Event, before: list[Call]) -> bool:
    """Tell whether user or provider had ended the grant, and nobody had consented again, when the verdict came."""
    ended = [(each.at, each.connection_id) for each in history.revoked]
    ended += [(call.started, call.connection_id) for call in history.calls if call.punished and call.connection_id]
    revoked = [at for at, connection_id in ended if connection_id == event.connection_id and at <= event.at]
    if not revoked:
        return False
    return not any(call.endpoint == "exchange" and call.started > max(revoked) for call in before)


def _had(history: History, call: Call) -> bool:
    """Tell whether what a call issued was ever in our hands: in a durable place, or presented later."""
    return call.issued in history.known or any(later.presented == call.issued for later in history.calls)


def _in_grace(history: History, at: float) -> bool:
    return any(span.what == "grace" and span.touches(at, at) for span in history.spans)


def _not_current(history: History, issued: Mapping[int, list[Call]]) -> Iterator[Finding]:
    for row in history.rows:
        if not row.alive or row.token == row.current:
            continue
        last = next((call for call in reversed(issued.get(row.connection_id, [])) if call.issued == row.current), None)
        excuse = None if last is None or _had(history, last) else why_lost(history, last)
        yield Finding(
            row.connection_id,
            history.stopped,
            excuse,
            f"connection {row.connection_id} ({row.status}) does not hold its grant's current token"
            f" (issued by call {last.sequence if last else None})",
        )


def _standing(history: History) -> Iterator[Violation]:
    """Compare what each connection is called with what its grant is."""
    for row in history.rows:
        wrong = _wrong(row)
        if wrong is not None:
            yield Violation("status_true", f"connection {row.connection_id} {wrong}")


def _wrong(row: Row) -> str | None:
    if not row.alive and row.status == Status.ACTIVE:
        return "is called active, but its grant has ended"
    if row.alive and row.token == row.current and row.status != Status.ACTIVE:
        return f"holds the current token of a living grant, but is called {row.status}"
    if row.status == Status.ACTIVE and row.holds:
        return f"is active, but its syncs are held: {', '.join(row.holds)}"
    return None


def _events(history: History) -> Iterator[Violation]:
    for event in history.events:
        if not event.delivered:
            yield Violation("every_event", f"event {event.id} ({event.type}) was not delivered")
        elif event.id not in history.received_ids:
            yield Violation("every_event", f"event {event.id} ({event.type}) never reached the host")
    for connection_id, sequences in _written(history).items():
        if sorted(sequences) != list(range(1, len(sequences) + 1)):
            yield Violation("events_in_order", f"the events of connection {connection_id} are numbered {sequences}")
    for connection_id, sequences in _came(history).items():
        if sequences != sorted(sequences):
            yield Violation("events_in_order", f"connection {connection_id}: the host had {sequences}")


def _written(history: History) -> Mapping[int, list[int]]:
    written: dict[int, list[int]] = defaultdict(list)
    for event in history.events:
        if event.connection_id is not None:
            written[event.connection_id].append(event.sequence or 0)
    return written


def _came(history: History) -> Mapping[int, list[int]]:
    """Return the order in which the host first had the events of each connection: one may come again."""
    came: dict[int, list[int]] = defaultdict(list)
    for connection_id, sequence in dict.fromkeys(history.received):
        came[connection_id].append(sequence)
    return came


def _overdue(history: History) -> Iterator[Violation]:
    for row in history.rows:
        if row.overdue_s is not None and row.overdue_s > OVERDUE_S:
            yield Violation("nobody_overdue", f"connection {row.connection_id} is due for {row.overdue_s:.0f} s")
