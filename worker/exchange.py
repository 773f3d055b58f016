"""The exchange of an authorization code for a grant, with the care of a refresh: claim, check, send, escrow, save.

A code is presented once. If its answer is lost, so is the consent, and the person is asked to consent again. Where
nothing but the browser says whose company it is, QuickBooks is asked, between the escrow and the save.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy.exc import DBAPIError

from qbo_refresh.sealing import Field, Place, Unsealable, authorization_place, realm_place
from qbo_refresh.status import Authorized
from worker import clock, log, policy
from worker.attempt import Received, Record
from worker.consent import Exchanged, Installed, NewGrant
from worker.database import UNIQUE_VIOLATION, sqlstate
from worker.errors import (
    ClientRejected,
    Facts,
    GrantRejected,
    IntuitError,
    LeaseSpent,
    OutcomeUnknown,
    RequestRejected,
    Unavailable,
)
from worker.signals import deferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbo_refresh.secret import Secret
    from worker.consent import Callback, Consent, ConsentStore
    from worker.intuit import Gate
    from worker.refresh import ClientSecret, Refresher
    from worker.tokens import TokenSet

CODE_LIVES = timedelta(minutes=10)  # Intuit does not say; RFC 6749 section 4.1.2 recommends ten minutes at most
PAUSE = timedelta(seconds=2)  # a person is waiting, and nothing was spent
PROVEN_WITHIN = timedelta(seconds=10)
# An escrow that does not answer may have the token; a company that cannot be proven now may be, later.
WAITS_FOR = timedelta(days=1)
# A consent is no connection's grant before it is saved; grants count from 1.
_NO_GRANT_YET, _NO_VERSION_YET = 0, 0
_NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class Exchanger:
    """What an exchange works with.

    Attributes:
        refresher: The adapters, keys and pace of this process's refreshes.
    """

    store: ConsentStore
    refresher: Refresher


@dataclass(frozen=True, slots=True)
class _Rescued:
    """A refresh token without the rest of its answer: from the escrow, or read whole from a broken 200."""

    refresh_token: Secret


def exchange(exchanger: Exchanger, authorization_id: int) -> Exchanged:
    """Exchange the code that a consent's callback brought, if that may and should be done now.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be asked. What had been received by then is in the escrow.
    """
    if not exchanger.refresher.may_claim():
        return Exchanged(authorization_id, None, "busy_saving")
    callback = exchanger.store.callback(authorization_id)
    if callback is not None and callback.app_id in exchanger.refresher.secrets:
        with deferred():
            _exchange(exchanger, callback)
    result = exchanger.store.standing(authorization_id)
    log.info(
        "exchange",
        authorization_id=authorization_id,
        outcome=result.outcome,
        reason=result.reason,
        connection_id=result.connection_id,
    )
    return result


def _exchange(exchanger: Exchanger, callback: Callback) -> None:
    keyring = exchanger.refresher.keyring
    try:
        realm_id = keyring.open(callback.realm_id, _place(callback, Field.CONSENTED_REALM_ID))
        code = keyring.open(callback.code, _place(callback, Field.CODE))
    except Unsealable as error:
        log.error("authorization.unreadable", authorization_id=callback.authorization_id, key=error.key_missing)
        if not error.key_missing:  # another worker may have the key, and be exchanging it
            exchanger.store.reject(callback.authorization_id, "unreadable")
        return
    realm_hash = exchanger.refresher.lookup.realm_hash(realm_id)
    consent = exchanger.store.claim(callback, lease_id=uuid4(), realm_hash=realm_hash)
    if consent is None:
        return
    if consent.presented_before:
        _recover(exchanger, consent, realm_id)
    elif consent.claimed_at - consent.used_at > CODE_LIVES:
        exchanger.store.finish(consent, Authorized.REFUSED, "expired")
    else:
        _present(exchanger, consent, code, realm_id)


def _place(callback: Callback, field: Field) -> Place:
    return authorization_place(callback.environment, callback.authorization_id, field)


def _recover(exchanger: Exchanger, consent: Consent, realm_id: Secret) -> None:
    """Take up what an attempt has left that died after it may have presented the code."""
    by = exchanger.refresher
    found = by.escrow.find(consent.authorization_id, grant_number=_NO_GRANT_YET, base_version=_NO_VERSION_YET)
    if found is None:
        _wait(exchanger, consent, "escrow_unavailable", or_else="answer_lost")
        return
    for received in reversed(found):
        try:
            token = by.keyring.open(received.refresh_token, _place(consent.callback, Field.CONSENTED_REFRESH_TOKEN))
        except Unsealable as error:
            log.error("escrow.entry_unreadable", authorization_id=consent.authorization_id, key=error.key_missing)
            continue
        if consent.names_connection:
            if _save(exchanger, consent, _Rescued(token), realm_id, _record(by, consent, posts=0, exposed_us=None)):
                by.escrow.settle(received)
        else:
            _prove_rescued(exchanger, consent, token, realm_id)
        return
    exchanger.store.finish(consent, Authorized.LOST, "answer_lost")


def _prove_rescued(exchanger: Exchanger, consent: Consent, refresh_token: Secret, realm_id: Secret) -> None:
    """Refresh a token out of the escrow: the access token that proves the company was never kept."""
    by, gate = exchanger.refresher, _gate(exchanger, consent)
    try:
        tokens, secret = _with_each_secret(
            exchanger,
            consent,
            lambda secret: by.intuit.refresh(
                refresh_token, client_id=consent.callback.client_id, client_secret=secret.secret, gate=gate
            ),
        )
    except GrantRejected:
        exchanger.store.finish(consent, Authorized.LOST, "answer_lost")
    except IntuitError as error:
        if isinstance(error, OutcomeUnknown) and error.salvaged is not None:
            by.escrow.put(_received(by, consent, error.salvaged))
        _wait(exchanger, consent, error.reason, or_else="answer_lost")
    else:
        _keep(exchanger, consent, tokens, realm_id, facts=tokens.facts, secret=secret)


def _present(exchanger: Exchanger, consent: Consent, code: Secret, realm_id: Secret) -> None:
    by, gate, callback = exchanger.refresher, _gate(exchanger, consent), consent.callback
    try:
        tokens, secret = _with_each_secret(
            exchanger,
            consent,
            lambda secret: by.intuit.exchange(
                code,
                redirect_url=callback.redirect_url,
                client_id=callback.client_id,
                client_secret=secret.secret,
                gate=gate,
            ),
        )
    except OutcomeUnknown as error:
        if error.salvaged is None:
            exchanger.store.finish(consent, Authorized.LOST, "answer_lost")
        else:
            _keep(exchanger, consent, _Rescued(error.salvaged), realm_id, facts=error.facts, secret=None)
    except IntuitError as error:
        _conclude(exchanger, consent, error)
    else:
        _keep(exchanger, consent, tokens, realm_id, facts=tokens.facts, secret=secret)


def _gate(exchanger: Exchanger, consent: Consent) -> Gate:
    return exchanger.refresher.gate(consent.opened_at)


def _with_each_secret(
    exchanger: Exchanger, consent: Consent, ask: Callable[[ClientSecret], TokenSet]
) -> tuple[TokenSet, ClientSecret]:
    rejected: ClientRejected | None = None
    for secret in exchanger.refresher.secrets[consent.callback.app_id]:
        try:
            return ask(secret), secret
        except ClientRejected as error:
            rejected = error
    raise rejected or ClientRejected("invalid_client")


def _keep(
    exchanger: Exchanger,
    consent: Consent,
    tokens: TokenSet | _Rescued,
    realm_id: Secret,
    *,
    facts: Facts,
    secret: ClientSecret | None,
) -> None:
    """Put the grant where it lasts, and into its connection once it is certain whose it is."""
    by = exchanger.refresher
    kept = _received(by, consent, tokens.refresh_token)
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
            _wait(exchanger, consent, "company_unproven", or_else="company_unproven")


def _is_of_company(
    exchanger: Exchanger, consent: Consent, tokens: TokenSet | _Rescued, realm_id: Secret
) -> bool | None:
    """Tell whether the grant is for the company that the redirect named; None if that cannot be told now.

    Whoever edits that redirect could otherwise attach an external id of his to a stranger's connection, or to the one
    that the stranger is yet to make. Where the consent names the connection he could only harm his own.
    """
    if consent.names_connection:
        return True
    if isinstance(tokens, _Rescued):
        return None
    gate = _gate(exchanger, consent)
    return exchanger.refresher.intuit.is_of_company(
        tokens.access_token,
        realm_id,
        environment=consent.callback.environment,
        gate=replace(gate, deadline=min(gate.deadline, PROVEN_WITHIN)),
    )


def _wait(exchanger: Exchanger, consent: Consent, reason: str, *, or_else: str) -> None:
    """Have it tried again out of the escrow, for a day at most; then it is lost."""
    if consent.claimed_at - consent.used_at < WAITS_FOR:
        pace = exchanger.refresher.pace
        # What may be under way at Intuit is over by then.
        exchanger.store.release(consent, reason=reason, pause=max(pace.backoff, pace.lease), presented=True)
    else:
        exchanger.store.finish(consent, Authorized.LOST, or_else)


def _conclude(exchanger: Exchanger, consent: Consent, error: IntuitError) -> None:
    """Write down a refusal, or give the lease back if nothing was spent: the code is good for some minutes."""
    match error:
        case GrantRejected() | RequestRejected():
            exchanger.store.finish(consent, Authorized.REFUSED, error.reason)
        case Unavailable(retry_after=timedelta() as pause):
            exchanger.store.release(consent, reason=error.reason, pause=max(pause, PAUSE), presented=False)
        case Unavailable() | LeaseSpent():
            exchanger.store.release(consent, reason=error.reason, pause=PAUSE, presented=False)
        case ClientRejected():
            # Our keys, not the person's fault: somebody may mend them while the code is good.
            log.error("exchange.client_rejected", app_id=consent.callback.app_id, reason=error.reason)
            exchanger.store.release(consent, reason=error.reason, pause=PAUSE, presented=False)
        case _:
            exchanger.store.finish(consent, Authorized.LOST, "answer_lost")


def _received(by: Refresher, consent: Consent, token: Secret) -> Received:
    return Received(
        consent.authorization_id,
        _NO_GRANT_YET,
        _NO_VERSION_YET,
        consent.lease_id,
        by.keyring.seal(token, _place(consent.callback, Field.CONSENTED_REFRESH_TOKEN)),
        by.lookup.fingerprint(token),
    )


def _record(
    by: Refresher,
    consent: Consent,
    *,
    posts: int,
    exposed_us: int | None,
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


def _save(
    exchanger: Exchanger, consent: Consent, tokens: TokenSet | _Rescued, realm_id: Secret, record: Record
) -> bool:
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
    tokens: TokenSet | _Rescued,
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
    if isinstance(tokens, _Rescued):
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
