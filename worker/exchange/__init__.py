"""The exchange of an authorization code for a grant, with the care of a refresh: claim, check, send, escrow, save.

A code is presented once. If its answer is lost, so is the consent, and the person is asked to consent again. Where
nothing but the browser says whose company it is, QuickBooks is asked, between the escrow and the save.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from qbo_refresh.sealing import Field, Unsealable
from qbo_refresh.status import Authorized
from worker import log
from worker.consent import CODE_LIVES, Exchanged
from worker.exchange import presenting
from worker.signals import deferred

if TYPE_CHECKING:
    from worker.consent import Callback, ConsentStore
    from worker.refresh import Refresher


@dataclass(frozen=True, slots=True)
class Exchanger:
    """What an exchange works with.

    Attributes:
        refresher: The adapters, keys and pace of this process's refreshes.
    """

    store: ConsentStore
    refresher: Refresher


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
        realm_id = keyring.open(callback.realm_id, callback.place(Field.CONSENTED_REALM_ID))
        code = keyring.open(callback.code, callback.place(Field.CODE))
    except Unsealable as error:
        log.warning("authorization.unreadable", authorization_id=callback.authorization_id, key=error.key_missing)
        exchanger.refresher.store.report_unreadable(callback, error, connection_id=None)
        if not error.key_missing:  # another worker may have the key, and be exchanging it
            exchanger.store.reject(callback.authorization_id, "unreadable")
        return
    realm_hash = exchanger.refresher.lookup.realm_hash(realm_id)
    consent = exchanger.store.claim(callback, lease_id=uuid4(), realm_hash=realm_hash)
    if consent is None:
        return
    if consent.presented_before:
        presenting.recover(exchanger, consent, realm_id)
    elif consent.claimed_at - consent.used_at > CODE_LIVES:
        exchanger.store.finish(consent, Authorized.REFUSED, "expired")
    else:
        presenting.present(exchanger, consent, code, realm_id)
