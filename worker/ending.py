"""The end of connections: disconnect, what is left to revoke, delete.

A disconnect forgets the tokens first and then tells Intuit. What is to be revoked is a row until Intuit has answered,
so that a crash between the two leaves no live token behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbo_refresh.errors import QboRefreshError
from qbo_refresh.sealing import Field, Place, Unsealable, authorization_place
from qbo_refresh.status import Ending
from worker import log, policy
from worker.consent import NO_GRANT_YET, NO_VERSION_YET
from worker.errors import IntuitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbo_refresh.secret import Secret
    from worker.attempt import Received
    from worker.escrow import RedisEscrow
    from worker.intuit import Gate
    from worker.refresh import Refresher
    from worker.store.endings import Deleted
    from worker.store.grants import PostgresGrants
    from worker.store.revocations import Revocation

REVOKED_AT_ONCE = 20


class NotDeleted(QboRefreshError):
    """A connection cannot be deleted now; nothing of it was."""


@dataclass(frozen=True, slots=True)
class Ender:
    """What an end works with.

    Attributes:
        refresher: The adapters, keys and pace of this process's refreshes.
    """

    store: PostgresGrants
    refresher: Refresher


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one request to disconnect; safe to store and to show.

    Attributes:
        revoked: Whether Intuit has acknowledged it; False if it is asked again by itself, None if nothing ended.
    """

    connection_id: int
    outcome: Ending
    reason: str | None = None
    revoked: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the task's result."""
        return {
            "connection_id": self.connection_id,
            "outcome": str(self.outcome),
            "reason": self.reason,
            "revoked": self.revoked,
        }


def disconnect(ender: Ender, connection_id: int, *, external_id: str | None = None) -> Ended:
    """End a connection, or take one of its external ids away: the last one ends it.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be asked.
    """
    if external_id is not None:
        stays = ender.store.leave(connection_id, external_id)
        if stays is None:
            return Ended(connection_id, Ending.LEFT)
        if stays != "last":
            return Ended(connection_id, Ending.SKIPPED, stays)
    nothing = ender.store.disconnect(connection_id)
    log.info("disconnect", connection_id=connection_id, reason=nothing)
    if nothing is not None:
        return Ended(connection_id, Ending.SKIPPED, nothing)
    revoke_due(ender, connection_id)
    return Ended(connection_id, Ending.DISCONNECTED, revoked=not ender.store.pending_revocations(connection_id))


def revoke_due(ender: Ender, connection_id: int | None = None) -> int:
    """Revoke what waits for it, of one connection or of all, and return how many tokens Intuit has acknowledged."""
    done = 0
    for _ in range(REVOKED_AT_ONCE):
        opened_at = ender.refresher.boottime()
        revocation = ender.store.claim_revocation(connection_id)
        if revocation is None:
            break
        done += _revoke(ender, revocation, opened_at)
    return done


def _revoke(ender: Ender, revocation: Revocation, opened_at: float) -> bool:
    by = ender.refresher
    tokens, are_all = _tokens(by, revocation)
    # One lease for all of them: after it, somebody may have consented anew.
    gate = by.gate(opened_at)
    if all(_tell(by, revocation, token, gate) for token in tokens) and are_all:
        ender.store.revoked(revocation)
        return True
    pause = policy.backoff(revocation.failures + 1, jitter=by.jitter(), pace=by.pace)
    ender.store.not_revoked(revocation, pause=pause)
    log.warning("revoke.failed", connection_id=revocation.connection_id, failures=revocation.failures + 1)
    return False


def _tokens(by: Refresher, revocation: Revocation) -> tuple[Sequence[Secret], bool]:
    """Return the token and what an attempt in flight has brought into the escrow since, and whether that is all.

    A copy that is no blob of this place's is none of its tokens, and is left out; one whose key is missing may be.
    """
    sealed = [] if revocation.refresh_token is None else [revocation.refresh_token]
    found: Sequence[Received] | None = ()
    if revocation.authorization_id is not None:
        place = authorization_place(revocation.environment, revocation.authorization_id, Field.CONSENTED_REFRESH_TOKEN)
        found = by.escrow.find(revocation.authorization_id, grant_number=NO_GRANT_YET, base_version=NO_VERSION_YET)
    else:
        place = Place(revocation.environment, revocation.connection_id, revocation.grant_number, Field.REFRESH_TOKEN)
        if revocation.token_version is not None:
            found = by.escrow.find(
                revocation.connection_id, grant_number=revocation.grant_number, base_version=revocation.token_version
            )
    tokens: dict[Secret, None] = {}
    are_all = found is not None
    for blob in (*sealed, *(received.refresh_token for received in found or ())):
        try:
            tokens[by.keyring.open(blob, place)] = None
        except Unsealable as error:
            log.warning("revocation.unreadable", connection_id=revocation.connection_id, key_missing=error.key_missing)
            by.store.report_unreadable(revocation, error, connection_id=revocation.connection_id)
            # Passed over is only a copy beside the connection's own token that has opened: so the key is the right one.
            are_all = are_all and not error.key_missing and bool(tokens)
    return list(tokens), are_all


def _tell(by: Refresher, revocation: Revocation, token: Secret, gate: Gate) -> bool:
    """Revoke one token with one client secret after the other; True once Intuit says that it is gone."""
    try:
        return any(
            by.intuit.revoke(token, client_id=revocation.client_id, client_secret=secret.secret, gate=gate)
            for secret in by.secrets[revocation.app_id]
        )
    except IntuitError as error:
        log.info("revoke.unanswered", connection_id=revocation.connection_id, reason=error.reason)
        return False


def delete(ender: Ender, escrow: RedisEscrow, connection_id: int, *, keep_grant: bool) -> Deleted:
    """Delete every trace of a connection that nothing is under way for, its grant revoked before.

    Args:
        ender: What it works with.
        escrow: Its copies are deleted, too.
        connection_id: Which.
        keep_grant: The grant lives on at Intuit: another system has it now.

    Raises:
        NotDeleted: Something is under way, or the grant could not be revoked: it is disconnected then, and a second
            try finishes.
        RedisError: Redis is away: it is disconnected then, and a second try finishes.
        DatabaseUnavailable: PostgreSQL cannot be asked.
    """
    if ender.store.disconnect(connection_id, revoke=not keep_grant, to_delete=True) == "in_flight":
        raise NotDeleted(
            f"An attempt is under way for connection {connection_id}: try again when its lease is over, in a minute."
        )
    if not keep_grant:
        revoke_due(ender, connection_id)
    if not keep_grant and ender.store.pending_revocations(connection_id):
        raise NotDeleted(
            f"Connection {connection_id} is disconnected, and Intuit has not acknowledged it yet: its sealed token is"
            " kept for that. Delete it again later, or with --keep-grant."
        )
    # The copies first: if they cannot go, the rows still say whose they are.
    escrow.forget(connection_id, authorization_ids=ender.store.consents_of(connection_id))
    return ender.store.delete(connection_id)
