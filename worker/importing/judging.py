"""What a row of the file means for the connections that are here already. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from qbo_refresh.status import Status
from worker.importing.layout import BadLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.importing.rows import Row
    from worker.store.transfer.here import Found


class Action(StrEnum):
    """What one row comes to."""

    NEW = "new"
    UNCHANGED = "unchanged"
    """The connection is here with this token."""
    SUPERSEDED = "superseded"
    """The connection held this token once and has a newer one by now, or is about to try it: nothing to do."""
    OLDER = "older"
    """Another token, obtained before the one that is here."""
    CANDIDATE = "candidate"
    """Another token, obtained after the one that is here: Intuit will be asked."""


def judge(
    row: Row,
    fingerprint: bytes,
    found: Found | None,
    *,
    holders: Sequence[int] = (),
    named: int | None = None,
    update: bool = False,
) -> Action:
    """Return what the row comes to.

    Args:
        row: The line, understood.
        fingerprint: Of its refresh token.
        found: The connection of its app and realm; None if there is none.
        holders: The connections that hold its refresh token now.
        named: The connection that its external id names.
        update: Newer tokens are wanted.

    Raises:
        BadLine: It contradicts what is here.
    """
    own = found.id if found else None
    reasons = [
        f"refresh_token is held by connection {holder}, which is another one" for holder in holders if holder != own
    ]
    if named is not None and named != own:
        reasons.append(f"external_id names connection {named}, which is another one")
    if reasons:
        raise BadLine(*reasons)
    if found is None:
        return Action.NEW
    if found.fingerprint == fingerprint:
        return Action.UNCHANGED
    if found.knows_token:
        return Action.SUPERSEDED
    if found.status is Status.DISCONNECTED:
        raise BadLine(f"connection {found.id} of this realm was disconnected: it must be reconnected, or deleted first")
    return _compare(row, found, update=update)


def _compare(row: Row, found: Found, *, update: bool) -> Action:
    if row.token_obtained_at is None:
        raise BadLine(
            f"connection {found.id} of this realm holds another token: give token_obtained_at, and --update to let the"
            f" newer one win"
        )
    if found.token_obtained_at is not None and row.token_obtained_at <= found.token_obtained_at:
        return Action.OLDER
    if not update:
        raise BadLine(f"connection {found.id} of this realm holds another, older token: --update would try this one")
    return Action.CANDIDATE
