"""Presenting a code once, and what Intuit's answer means for the consent; or taking up what a dead attempt has left."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Unsealable
from qbo_refresh.status import Authorized
from worker import log, policy
from worker.errors import (
    ClientRejected,
    GrantRejected,
    IntuitError,
    LeaseSpent,
    OutcomeUnknown,
    RequestRejected,
    Unavailable,
)
from worker.exchange import keeping
from worker.exchange.keeping import Rescued

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbo_refresh.secret import Secret
    from worker.consent import Consent
    from worker.exchange import Exchanger
    from worker.refresh import ClientSecret
    from worker.tokens import TokenSet

PAUSE = timedelta(seconds=2)  # a person is waiting, and nothing was spent


def present(exchanger: Exchanger, consent: Consent, code: Secret, realm_id: Secret) -> None:
    """Present the code, and write down what came of it."""
    by, gate, callback = exchanger.refresher, exchanger.refresher.gate(consent.opened_at), consent.callback
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
            keeping.keep(exchanger, consent, Rescued(error.salvaged), realm_id, facts=error.facts, secret=None)
    except IntuitError as error:
        _conclude(exchanger, consent, error)
    else:
        keeping.keep(exchanger, consent, tokens, realm_id, facts=tokens.facts, secret=secret)


def _with_each_secret(
    exchanger: Exchanger, consent: Consent, ask: Callable[[ClientSecret], TokenSet]
) -> tuple[TokenSet, ClientSecret]:
    rejected: ClientRejected | None = None
    exchanger.refresher.escrow.connect()
    for secret in exchanger.refresher.secrets[consent.callback.app_id]:
        try:
            return ask(secret), secret
        except ClientRejected as error:
            rejected = error
            exchanger.store.block(consent, secret_hash=secret.secret_hash, reason=error.reason)
    raise rejected or ClientRejected("invalid_client")


def _conclude(exchanger: Exchanger, consent: Consent, error: IntuitError) -> None:
    """Write down a refusal, or give the lease back if nothing was spent: the code is good for some minutes."""
    pace = exchanger.refresher.pace
    match error:
        case GrantRejected() | RequestRejected():
            exchanger.store.finish(consent, Authorized.REFUSED, error.reason)
        case Unavailable(reason="throttled"):
            pause = policy.bounded_throttle(error.retry_after or pace.backoff)
            exchanger.store.release(consent, reason=error.reason, pause=pause, presented=False, throttles=True)
        case Unavailable() | LeaseSpent():
            exchanger.store.release(consent, reason=error.reason, pause=PAUSE, presented=False)
        case ClientRejected():
            # Our keys, not the person's fault: somebody may mend them while the code is good. It is its own probe.
            exchanger.store.release(consent, reason=error.reason, pause=pace.probe_every, presented=False)
        case _:
            exchanger.store.finish(consent, Authorized.LOST, "answer_lost")


def recover(exchanger: Exchanger, consent: Consent, realm_id: Secret) -> None:
    """Take up what an attempt has left that died after it may have presented the code."""
    by = exchanger.refresher
    found = keeping.copies(by, consent)
    if found is None:
        keeping.wait(exchanger, consent, "escrow_unavailable", or_else="answer_lost")
        return
    for kept in found:
        try:
            token = by.keyring.open(kept.refresh_token, consent.callback.place(Field.CONSENTED_REFRESH_TOKEN))
        except Unsealable as error:
            log.warning("escrow.entry_unreadable", authorization_id=consent.authorization_id, key=error.key_missing)
            by.store.report_unreadable(consent.callback, error, connection_id=None)
            continue
        if consent.names_connection:
            keeping.keep_rescued(exchanger, consent, kept, token, realm_id)
        else:
            _prove_rescued(exchanger, consent, token, realm_id)
        return
    exchanger.store.finish(consent, Authorized.LOST, "answer_lost")


def _prove_rescued(exchanger: Exchanger, consent: Consent, refresh_token: Secret, realm_id: Secret) -> None:
    """Refresh a token out of the escrow: the access token that proves the company was never kept."""
    by, gate = exchanger.refresher, exchanger.refresher.gate(consent.opened_at)
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
            by.escrow.put(keeping.copy(by, consent, error.salvaged))
        keeping.wait(exchanger, consent, error.reason, or_else="answer_lost")
    else:
        keeping.keep(exchanger, consent, tokens, realm_id, facts=tokens.facts, secret=secret)
