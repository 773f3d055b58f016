"""Checks of the keys: do they open the rows, are they those that the rows were made with, is one missing."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from qbo_refresh.errors import QboRefreshError
from qbo_refresh.sealing import Field, Place
from worker.doctor.patient import Skipped, Wrong
from worker.escrow import RedisEscrow
from worker.store import control, inspection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbo_refresh.sealing import Keyring
    from worker.attempt import Received
    from worker.doctor.patient import Patient

SAMPLE = 200
_SHOWN = 5


def token_keys(patient: Patient) -> str:
    """Check that TOKEN_KEYS open a sample of the rows, and that no key is missing."""
    db, keyring = patient.database(), patient.config.keyring()
    counts = inspection.keys_in_use(db)
    missing = {key_id: number for key_id, number in counts.items() if key_id not in keyring.key_ids}
    if missing:
        listed = ", ".join(f"{number} blobs need {key_id!r}" for key_id, number in missing.items())
        raise Wrong(f"Keys are missing in TOKEN_KEYS ({listed}): put them back, last in the list.")
    samples = inspection.samples(db, newest=SAMPLE)
    shut = [sample.connection_id for sample in samples if not _opens(keyring, sample)]
    if shut:
        shown = ", ".join(map(str, shut[:_SHOWN]))
        raise Wrong(
            f"{len(shut)} of {len(samples)} sampled refresh tokens do not open (connections {shown}"
            f"{', …' if len(shut) > _SHOWN else ''}): a key has the right id and the wrong value, or rows were moved."
        )
    return f"{len(samples)} sampled refresh tokens open; key ids in use: {', '.join(counts) or 'none yet'}"


def _opens(keyring: Keyring, sample: inspection.Sample) -> bool:
    try:
        keyring.open(sample.refresh_token, sample.token_place)
    except QboRefreshError:
        return False
    return True


def escrow(patient: Patient) -> str:
    """Check that a sample of the copies in Redis opens; none is a fault of a connection."""
    db, keyring = patient.database(), patient.config.keyring()
    found = list(islice(RedisEscrow(patient.config.redis()).everything(), SAMPLE))
    # Grant 0 is the consent of that number.
    grants = [each for each in found if each is not None and each.grant_number]
    consents = [each for each in found if each is not None and not each.grant_number]
    of_grants = inspection.environments(db, [each.connection_id for each in grants])
    of_consents = inspection.consent_environments(db, [each.connection_id for each in consents])
    shut: list[object] = [None] * found.count(None)
    shut += [each for each in grants if not _copy_opens(keyring, each, Field.REFRESH_TOKEN, of_grants)]
    shut += [each for each in consents if not _copy_opens(keyring, each, Field.CONSENTED_REFRESH_TOKEN, of_consents)]
    if shut:
        raise Wrong(
            f"{len(shut)} of {len(found)} sampled copies in the escrow do not open: a key was taken out of TOKEN_KEYS"
            " too early (put it back, last in the list), or somebody wrote there. Each is passed over; none makes a"
            " verdict."
        )
    return f"{len(found)} sampled copies in Redis open" if found else "no copies in Redis"


def _copy_opens(keyring: Keyring, found: Received, kind: Field, environments: Mapping[int, str]) -> bool:
    environment = environments.get(found.connection_id)
    if environment is None:
        return True  # of one that is not there any more: nobody will ask for it
    place = Place(environment, found.connection_id, found.grant_number, kind)
    try:
        keyring.open(found.refresh_token, place)
    except QboRefreshError:
        return False
    return True


def lookup_key(patient: Patient) -> str:
    """Check that LOOKUP_KEY is the one of the rows."""
    recognised = control.recognises(patient.database(), patient.config.lookup())
    if recognised is None:
        raise Skipped("no LOOKUP_KEY has been used with this database yet")
    if not recognised:
        raise Wrong("LOOKUP_KEY is not the one that the rows were made with: put that one back; it never changes.")
    return "it is the one that the rows were made with"


def keyless(patient: Patient) -> str:
    """Check that no row's app is without keys here."""
    here = {(app.environment, app.client_id) for app in patient.config.apps()}
    rows = inspection.rows_by_app(patient.database())
    strange = {name: number for name, number in rows.items() if name not in here and number}
    if strange:
        listed = "; ".join(f"{number} of {client_id} ({where})" for (where, client_id), number in strange.items())
        raise Wrong(f"Connections have no client secret here ({listed}): add their apps to INTUIT_APPS.")
    return "every connection's app has its client secret here"
