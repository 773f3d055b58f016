"""Where a connection stands: status, syncs, tokens and their three clocks, as pairs of a name and words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.status import Status
from worker.moments import when

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from worker.store.history import Row, Story


def standing(story: Story) -> Iterator[tuple[str, str]]:
    """Yield what stands now; nothing for a connection of which only the ledger is left."""
    row = story.row
    if row is None:
        return
    yield "status", _status(row)
    yield "syncs", _syncs(story, row.at)
    yield (
        "refreshed",
        f"last {when(row.last_refreshed_at, row.at)}" if row.last_refreshed_at else "never by this worker",
    )
    yield "access", _clock(row.access_expires_at, row.at, "access token")
    yield "rolling", _clock(row.refresh_expires_at, row.at, "refresh token, which each new one moves")
    yield (
        "hard limit",
        _clock(row.hard_expires_at, row.at, "grant, whatever is done") + _whose_word(row) + _noticed(row),
    )
    yield "token", _token(row)
    untried = sum(candidate.tried_at is None for candidate in story.candidates)
    if untried:
        yield "candidates", f"{untried} that may be the live token, not tried yet"
    for consent in story.consents:
        why = f"; {consent.reason}" if consent.reason else ""
        code = "its code was presented" if consent.presented_at else "its code was not presented yet"
        yield "consent", f"called back {when(consent.used_at, row.at)}, {code}{why}"
    for revocation in story.revocations:
        tries = f", {revocation.failures} tries so far" if revocation.failures else ""
        yield "to revoke", f"a token of {when(revocation.created_at, row.at)}; Intuit has not acknowledged it{tries}"
    if row.second_writer_at is not None or row.is_foreign:
        seen = f" (seen {when(row.second_writer_at, row.at)})" if row.second_writer_at else ""
        yield "writer", f"somebody else refreshed this grant, too{seen}: stop the old system, or the copy"
    if row.is_leased and row.leased_until is not None:
        yield "lease", f"held by {row.attempt_worker or 'an unknown worker'} until {when(row.leased_until, row.at)}"
    if row.frozen:
        whose = "" if row.taken_over else ", and not taken over: an old refresher has it"
        yield "frozen", f"yes: not refreshed until it is thawed{whose}"


def _status(row: Row) -> str:
    match row.status:
        case Status.ACTIVE:
            return (
                "active: its grant worked when it was last asked" if row.last_refreshed_at else "active, not asked yet"
            )
        case Status.SUSPECT:
            since = f" {when(row.suspect_since, row.at)}" if row.suspect_since else ""
            return f"suspect: Intuit first refused the grant{since}; nobody was told"
        case Status.NEEDS_REAUTH:
            since = f" since {when(row.needs_reauth_since, row.at)}" if row.needs_reauth_since else ""
            return f"needs_reauth{since}: the customer must reconnect"
        case Status.DISCONNECTED:
            return "disconnected: its tokens are forgotten"
    return row.status


def _syncs(story: Story, at: datetime) -> str:
    if not story.holds:
        return "run"
    return "paused: " + "; ".join(
        f"{hold.reason} since {when(hold.since, at)}{f' ({hold.note})' if hold.note else ''}" for hold in story.holds
    )


def _clock(end: datetime | None, at: datetime, whose: str) -> str:
    if end is None:
        return f"not known (the {whose})"
    return f"{'ends' if end > at else 'ended'} {when(end, at)} (the {whose})"


def _whose_word(row: Row) -> str:
    if row.hard_expires_at is None or not row.hard_expires_inferred:
        return ""
    return "; inferred, not said by Intuit: new refresh tokens no longer move their end"


def _noticed(row: Row) -> str:
    return f"; told {row.expiry_told_days} days before" if row.expiry_told_days is not None else ""


def _token(row: Row) -> str:
    if not row.has_token:
        return "none"
    obtained = f", received {when(row.token_obtained_at, row.at)}" if row.token_obtained_at else ""
    old = "; with the previous client secret" if row.last_secret == "previous" else ""  # noqa: S105  # a name
    return f"grant {row.grant_number}, version {row.token_version}{obtained}{old}"
