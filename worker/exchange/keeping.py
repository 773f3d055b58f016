"""Putting a grant where it lasts: sealed into the escrow, proven to be of the company that was named, saved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from qbo_refresh.sealing import Field, Place, realm_place
from qbo_refresh.status import Authorized
from worker import clock, log, policy
from worker.attempt import Received, Record
from worker.consent import NO_GRANT_YET, NO_VERSION_YET, Installed, NewGrant
from worker.database import UNIQUE_VIOLATION, sqlstate
from worker.errors import Facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbo_refresh.secret import Secret
    from worker.consent import Consent
    from worker.exchange import Exchanger
    from worker.refresh import ClientSecret, Refresher
    from worker.tokens import TokenSet

PROVEN_WITHIN = timedelta(seconds=10)
# An escrow that does not answer may have the token; a company that cannot be proven now may be, later.
WAITS_FOR = timedelta(days=1)
_NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class Rescued:
    """A refresh token without the rest of its answer: from the escrow, or read whole from a broken 200."""

    refresh_token: Secret


def copy(by: Refresher, consent: Consent, token: Secret) -> Received:
    """Return a refresh token of this consent as the escrow keeps it."""
    return Received(
        consent.authorization_id,
        NO_GRANT_YET,
        NO_VERSION_YET,
        consent.lease_id,
        by.keyring.seal(token, consent.callback.place(Field.CONSENTED_REFRESH_TOKEN)),
        by.lookup.fingerprint(token),
    )


def copies(by: Refresher, consent: Consent) -> Sequence[Received] | None:
    """Return what the escrow has of this consent, the newest first; None if it cannot be asked."""
    found = by.escrow.find(consent.authorization_id, grant_number=NO_GRANT_YET, base_version=NO_VERSION_YET)
    return None if found is None else found[::-1]


def keep(
    exchanger: Exchanger,
    consent: Consent,
    tokens: TokenSet | Rescued,
    realm_id: Secret,
    *,
    facts: Facts,
    secret: ClientSecret | None,
) -> None:
    """Put the grant where it lasts, and into its connection once it is certain whose it is."""
    by = exchanger.refresher
    kept = copy(by, consent, tokens.refresh_token)
    exposed_us = None
    if by.escrow.put(kept) and facts.last_byte_at is not None:
        exposed_us = round((clock.boottime() - facts.last_byte_at) * 1_000_000)
    match _is_of_company(exchanger, consent, tokens, realm_id):
        case True:
            record = _record(by, consent, posts=1, exposed_us=exposed_us, facts=facts, secret=secret)
            if _save(exchanger, consent, tokens, realm_id, record):
                by.escrow.settle(kept)
        case False:
            log.warning("exchange.wrong_company", authorization_id=consent.authorization_id)
            exchanger.store.finish(consent, Authorized.REFUSED, "wrong_company")
            by.escrow.settle(kept)
        case None:
            wait(exchanger, consent, "company_unproven", or_else="company_unproven")


def keep_rescued(exchanger: Exchanger, consent: Consent, kept: Received, token: Secret, realm_id: Secret) -> None:
    """Put a token out of the escrow into the connection that its consent names."""
    record = _record(exchanger.refresher, consent, posts=0)
    if _save(exchanger, consent, Rescued(token), realm_id, record):
        exchanger.refresher.escrow.settle(kept)


def _is_of_company(exchanger: Exchanger, consent: Consent, tokens: TokenSet | Rescued, realm_id: Secret) -> bool | None:
    """Tell whether the grant is for the company that the redirect named; None if that cannot be told now.

    Whoever edits that redirect could otherwise attach an external id of his to a stranger's connection, or to the one
    that the stranger is yet to make. Where the consent names the connection he could only harm his own.
    """
    if consent.names_connection:
        return True
    if isinstance(tokens, Rescued):
        return None
    gate = exchanger.refresher.gate(consent.opened_at)
    return exchanger.refresher.intuit.is_of_company(
        tokens.access_token,
        realm_id,
        environment=consent.callback.environment,
        gate=replace(gate, deadline=min(gate.deadline, PROVEN_WITHIN)),
    )


def wait(exchanger: Exchanger, consent: Consent, reason: str, *, or_else: str) -> None:
    """Have it tried again out of the escrow, for a day at most; then it is lost."""
    if consent.claimed_at - consent.used_at < WAITS_FOR:
        pace = exchanger.refresher.pace
        # What may be under way at Intuit is over by then.
        exchanger.store.release(consent, reason=reason, pause=max(pace.backoff, pace.lease), presented=True)
    else:
        exchanger.store.finish(consent, Authorized.LOST, or_else)


def _record(
    by: Refresher,
    consent: Consent,
    *,
    posts: int,
    exposed_us: int | None = None,
    facts: Facts = _NO_FACTS,
    secret: ClientSecret | None = None,
) -> Record:
    return Record(
        worker=by.worker,
        duration_ms=round((clock.boottime() - consent.opened_at) * 1000),
        posts=posts,
        http_status=facts.http_status,
        intuit_tid=facts.intuit_tid,
        secret=secret.name if secret else None,
        secret_hash=secret.secret_hash if secret else None,
        exposed_us=exposed_us,
    )


def _save(exchanger: Exchanger, consent: Consent, tokens: TokenSet | Rescued, realm_id: Secret, record: Record) -> bool:
    """Put the grant where it lasts; False if PostgreSQL refuses it: tried again, from the escrow, in an hour.

    A grant that is not stored is not revoked, unless the connection was disconnected after the consent: a revocation
    may end other grants of the same login, and one that nobody holds dies by itself in 100 days.
    """

    def seal(connection_id: int, grant_number: int) -> NewGrant:
        return _sealed(
            exchanger.refresher, consent, tokens, realm_id, connection_id=connection_id, grant_number=grant_number
        )

    try:
        try:
            installed = exchanger.store.install(consent, seal, record)
        except DBAPIError as error:
            if sqlstate(error) != UNIQUE_VIOLATION:
                raise
            # An import has just made this very connection: now it is found.
            installed = exchanger.store.install(consent, seal, record)
    except DBAPIError as error:
        log.error("exchange.save_refused", authorization_id=consent.authorization_id, error=type(error.orig).__name__)
        exchanger.store.release(consent, reason="save_refused", pause=policy.UNREADABLE_PAUSE, presented=True)
        return False
    if installed not in (Installed.CONNECTED, Installed.BEFORE):
        log.warning("exchange.not_stored", authorization_id=consent.authorization_id, reason=installed.value)
    return True


def _sealed(
    by: Refresher,
    consent: Consent,
    tokens: TokenSet | Rescued,
    realm_id: Secret,
    *,
    connection_id: int,
    grant_number: int,
) -> NewGrant:
    environment = consent.callback.environment
    realm = by.keyring.seal(realm_id, realm_place(environment, connection_id))
    place = Place(environment, connection_id, grant_number, Field.REFRESH_TOKEN)
    refresh_token = by.keyring.seal(tokens.refresh_token, place)
    fingerprint = by.lookup.fingerprint(tokens.refresh_token)
    if isinstance(tokens, Rescued):
        return NewGrant(realm, refresh_token, fingerprint, next_refresh_in=timedelta(0))
    access = Place(environment, connection_id, grant_number, Field.ACCESS_TOKEN)
    return NewGrant(
        realm,
        refresh_token,
        fingerprint,
        next_refresh_in=policy.next_refresh_in(connection_id, now=consent.claimed_at),
        access_token=by.keyring.seal(tokens.access_token, access),
        access_lifetime=tokens.access_lifetime,
        refresh_lifetime=tokens.refresh_lifetime,
        hard_lifetime=tokens.hard_lifetime,
        answered_at=tokens.facts.last_byte_at,
    )
