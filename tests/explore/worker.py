"""A worker on a world: the production use case with the stand-ins as its ports, and keys that hide nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.sealing import Envelope, Keyring, Lookup, Place, Unsealable
from qbo_refresh.secret import Secret
from tests.explore.escrow import MemoryEscrow
from tests.explore.provider import MemoryIntuit
from tests.explore.store import MemoryStore
from tests.explore.tables import APP_ID
from worker.policy import Pace
from worker.refresh import ClientSecret, Refresher

if TYPE_CHECKING:
    from tests.explore.world import World

LOOKUP = Lookup(bytes(32))
SECRET = ClientSecret("current", Secret("a-client-secret"), LOOKUP.secret_hash(Secret("a-client-secret")))


class OpenEnvelope(Envelope):
    """Puts the token's place before it."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def seal(self, secret: Secret) -> bytes:
        """Return both."""
        return self._place.associated_data() + b"|" + secret.reveal().encode()


class OpenKeyring(Keyring):
    """Seals nothing: the same token makes the same blob, which still belongs in its one place."""

    def __init__(self) -> None:
        super().__init__({"open": {}})

    def envelope(self, place: Place) -> Envelope:
        """Return what seals nothing."""
        return OpenEnvelope(place)

    def open(self, blob: bytes, place: Place) -> Secret:
        """Return the token, in its own place."""
        where, _, token = blob.rpartition(b"|")
        if where != place.associated_data():
            raise Unsealable(key_id=None, key_missing=False)
        return Secret(token.decode())


KEYRING = OpenKeyring()


def refresher(world: World, *, pace: Pace = Pace(), store: MemoryStore | None = None) -> Refresher:  # noqa: B008  # frozen
    """Return a worker's use case on a world."""
    return Refresher(
        store=store or MemoryStore(world, pace=pace, secret_hashes=[SECRET.secret_hash]),
        escrow=MemoryEscrow(world),
        intuit=MemoryIntuit(world.provider),
        keyring=KEYRING,
        lookup=LOOKUP,
        pace=pace,
        secrets={APP_ID: (SECRET,)},
        worker="a worker",
        may_claim=lambda: True,
        jitter=lambda: 0.0,
        boottime=world.boottime,
    )
