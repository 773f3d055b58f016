"""Which tokens an attempt presents to Intuit, in which order, with which client secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Unsealable, key_id_of
from worker import log
from worker.attempt import Source
from worker.errors import ClientRejected, GrantRejected, IntuitError, LeaseSpent
from worker.refresh.under_way import Presentable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbo_refresh.secret import Secret
    from worker.refresh.refresher import ClientSecret
    from worker.refresh.under_way import UnderWay
    from worker.tokens import TokenSet


def find_candidates(attempt: UnderWay) -> None:
    """Find what is not settled, with what the escrow holds if an earlier attempt may have left something there."""
    by, claim = attempt.by, attempt.claim
    found = None
    if claim.standing.in_doubt or claim.standing.suspect_since is not None or claim.is_new_epoch:
        found = by.escrow.find(
            claim.connection_id,
            grant_number=claim.grant_number,
            base_version=claim.token_version,
            is_far=claim.is_new_epoch,
        )
        attempt.escrow_silent = found is None
        for received in found or ():
            by.store.add_candidate(received, Source.ESCROW)
    if found or claim.has_candidates:
        attempt.candidates = by.store.candidates(claim)


def present(attempt: UnderWay) -> TokenSet:
    """Present one token after the other until one is answered with anything but a refusal of the grant.

    Raises:
        GrantRejected: Each was refused, or one was whose refusal is not believed yet.
        IntuitError: One was answered otherwise.
        Unsealable: The row's own token does not open, or there is none.
    """
    refused: GrantRejected | None = None
    for presentable in _in_order(attempt):
        token = _opened(attempt, presentable)
        if token is None:
            continue
        attempt.presented = presentable
        try:
            answer = _ask(attempt, token)
        except GrantRejected as error:
            if error.perhaps_our_keys:
                raise
            refused = error
            if not _believed(attempt, presentable):
                raise
        else:
            if presentable.candidate_id is not None:
                attempt.disposed += (presentable.candidate_id,)
            return answer
    if refused is None:
        raise Unsealable(key_id=None, key_missing=False)
    raise refused


def _in_order(attempt: UnderWay) -> Iterator[Presentable]:
    """Yield what to present: candidates as new as the row's token, that, then older ones; received last first.

    On a provider that still honours an old token, the loser of a race holds the live one: no verdict before it is
    tried. On one that punishes reuse, an older token is only presented once the row's was refused anyway; and of two
    that are as new as the row's, the one of the later version first: it has replaced the other.
    """
    claim = attempt.claim
    latest_first = sorted(attempt.candidates, key=lambda candidate: candidate.base_version, reverse=True)
    for candidate in latest_first:
        if candidate.base_version >= claim.token_version:
            yield Presentable(candidate.refresh_token, candidate.fingerprint, candidate.candidate_id)
    if claim.refresh_token is not None and claim.fingerprint is not None:
        yield Presentable(claim.refresh_token, claim.fingerprint)
    for candidate in latest_first:
        if candidate.base_version < claim.token_version:
            yield Presentable(candidate.refresh_token, candidate.fingerprint, candidate.candidate_id)


def _opened(attempt: UnderWay, presentable: Presentable) -> Secret | None:
    """Open a sealed token. A candidate that does not open is None: it must not be in the way of the row's own token.

    One whose key is missing stays untried, so that no verdict comes while the key is away.
    """
    try:
        return _open(attempt, presentable)
    except Unsealable as error:
        if presentable.candidate_id is None:
            raise
        claim = attempt.claim
        log.warning("candidate.unreadable", connection_id=claim.connection_id, key_missing=error.key_missing)
        attempt.by.store.report_unreadable(claim, error, connection_id=claim.connection_id)
        if not error.key_missing:
            _believed(attempt, presentable)
        return None


def _open(attempt: UnderWay, presentable: Presentable) -> Secret:
    token = attempt.by.keyring.open(presentable.sealed, attempt.place(Field.REFRESH_TOKEN))
    # An older blob of this very row and grant opens, too: its place names no version.
    if attempt.by.lookup.fingerprint(token) != presentable.fingerprint:
        raise Unsealable(key_id=key_id_of(presentable.sealed), key_missing=False)
    return token


def _believed(attempt: UnderWay, presentable: Presentable) -> bool:
    """Note a refusal; False if it must be repeated before what the token has replaced may be presented."""
    if presentable.candidate_id is None:
        return True
    attempt.disposed += (presentable.candidate_id,)
    return attempt.by.store.refuse(presentable.candidate_id)


def _ask(attempt: UnderWay, token: Secret) -> TokenSet:
    """Present one token with one secret after the other until one of them is not refused."""
    by, claim = attempt.by, attempt.claim
    gate = by.gate(claim.opened_at)
    refusal: ClientRejected | None = None
    attempt.make_ready()
    for secret in _secrets(attempt):
        attempt.secret = secret
        attempt.posts += 1
        try:
            answer = by.intuit.refresh(token, client_id=claim.client_id, client_secret=secret.secret, gate=gate)
        except ClientRejected as error:
            attempt.facts, refusal = error.facts, error
            by.store.block(claim, secret_hash=secret.secret_hash, reason=error.reason, at_once=True)
        except IntuitError as error:
            attempt.facts = error.facts
            if isinstance(error, LeaseSpent) or error.reason == "unreachable":
                attempt.posts -= 1
            raise
        else:
            attempt.facts = answer.facts
            return answer
    raise refusal or ClientRejected("invalid_client")


def _secrets(attempt: UnderWay) -> list[ClientSecret]:
    claim = attempt.claim
    mine = attempt.by.secrets[claim.app_id]
    return [secret for secret in mine if claim.probing or secret.secret_hash not in claim.blocked]
