"""Sealing everything anew with the first of TOKEN_KEYS, while refreshes, imports and reconnects go on.

What is sealed with it already is passed over, so that an interrupted run is taken up by the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import redis

from qbo_refresh.sealing import Field, Place, Unsealable, key_id_of, realm_place
from worker.store import inspection, resealing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbo_refresh.sealing import Keyring
    from worker.database import Database
    from worker.escrow import RedisEscrow
    from worker.store.resealing import Blobs, Kind

T = TypeVar("T")

BATCH = 200
_PASSES = 5
_PATIENCE = timedelta(seconds=30)
_NAMED = 20


@dataclass(slots=True)
class Report:
    """What a rotation came to.

    Attributes:
        sealed: Connections, candidates, and values of consents and revocations, that were sealed anew.
        overtaken: Connections that a refresh or a reconnect changed between reading and writing: looked at again.
        shut: The first connections with a blob that does not open.
        shut_blobs: How many blobs do not open.
        keys: Key id → how many blobs, in the tables, are sealed with it now.
        under_way: Attempts that began before the last value was sealed anew: one may save the old one as its previous.
        in_escrow: Key id → how many copies in Redis are; None if Redis could not be asked.
    """

    sealed: int = 0
    sealed_candidates: int = 0
    sealed_others: int = 0
    overtaken: int = 0
    shut: list[int] = field(default_factory=list)
    shut_blobs: int = 0
    keys: dict[str, int] = field(default_factory=dict)
    under_way: int = 0
    in_escrow: dict[str, int] | None = None

    def removable(self, key_ids: tuple[str, ...]) -> list[str]:
        """Return which of these keys, the first aside, nothing is sealed with; none while that cannot be told."""
        if self.in_escrow is None or self.under_way:
            return []
        return [key_id for key_id in key_ids[1:] if not self.keys.get(key_id) and not self.in_escrow.get(key_id)]


@dataclass(frozen=True, slots=True)
class Resealer:
    """What a rotation works with.

    Attributes:
        progress: Told how many connections were looked at, after each batch.
        keeps: False for a dry run: everything is opened and sealed, nothing is written.
    """

    db: Database
    keyring: Keyring
    escrow: RedisEscrow
    progress: Callable[[int], None]
    keeps: bool = True

    def run(self) -> Report:
        """Seal anew what is not sealed with the first key.

        Raises:
            DatabaseUnavailable: PostgreSQL stayed away; what is done stays done.
        """
        report, finished = Report(), inspection.now(self.db)
        # What an import brought meanwhile, or a worker with the old order of keys, shows in a further pass.
        for _ in range(_PASSES if self.keeps else 1):
            report.shut, report.shut_blobs = [], 0
            moved = self._rows(report)
            candidates = self._singles(resealing.CANDIDATES, report)
            others = sum(self._singles(kind, report) for kind in resealing.OTHERS)
            report.sealed_candidates += candidates
            report.sealed_others += others
            if not moved + candidates + others:
                break
            finished = inspection.now(self.db)
        report.under_way = inspection.attempts_before(self.db, finished)
        report.keys = inspection.keys_in_use(self.db)
        report.in_escrow = self._in_escrow()
        return report

    def _rows(self, report: Report) -> int:
        """Go over the connections once, and return how many changed or were overtaken."""
        after, looked_at, moved = 0, 0, 0
        while batch := resealing.rows(self.db, self.keyring.key_ids[0], after=after, limit=BATCH):
            sealed = [anew for blobs in batch if (anew := self._anew(blobs, report)) != blobs]
            written = self._write(resealing.replace, sealed)
            report.sealed += written
            report.overtaken += len(sealed) - written
            moved += len(sealed)
            after, looked_at = batch[-1].connection_id, looked_at + len(batch)
            self.progress(looked_at)
        return moved

    def _singles(self, kind: Kind, report: Report) -> int:
        after, moved = 0, 0
        while batch := resealing.singles(self.db, kind, self.keyring.key_ids[0], after=after, limit=BATCH):
            anew = [replace(each, blob=self._blob(each.blob, each.place, report)) for each in batch]
            sealed = [new for new, old in zip(anew, batch, strict=True) if new != old]
            moved += self._write(lambda db, sealed: resealing.replace_singles(db, kind, sealed), sealed)
            after = batch[-1].row_id
        return moved

    def _write(self, write: Callable[[Database, Sequence[T]], int], sealed: Sequence[T]) -> int:
        if not self.keeps or not sealed:
            return len(sealed)
        # An import and a sweep lock many rows, too: a deadlock is taken back and done again.
        return self.db.patiently(lambda: write(self.db, sealed), patience=_PATIENCE)

    def _anew(self, blobs: Blobs, report: Report) -> Blobs:
        refresh = Place(blobs.environment, blobs.connection_id, blobs.grant_number, Field.REFRESH_TOKEN)
        access = replace(refresh, field=Field.ACCESS_TOKEN)
        realm = realm_place(blobs.environment, blobs.connection_id)
        return replace(
            blobs,
            realm_id=self._blob(blobs.realm_id, realm, report),
            refresh_token=blobs.refresh_token and self._blob(blobs.refresh_token, refresh, report),
            previous_refresh_token=blobs.previous_refresh_token
            and self._blob(blobs.previous_refresh_token, refresh, report),
            access_token=blobs.access_token and self._blob(blobs.access_token, access, report),
        )

    def _blob(self, blob: bytes, place: Place, report: Report) -> bytes:
        """Return a blob sealed anew; one that is sealed with the first key, or does not open, as it is."""
        if key_id_of(blob) == self.keyring.key_ids[0]:
            return blob
        try:
            return self.keyring.seal(self.keyring.open(blob, place), place)
        except Unsealable:
            report.shut_blobs += 1
            of_connection = place.field not in (Field.CODE, Field.CONSENTED_REALM_ID)
            if of_connection and len(report.shut) < _NAMED and place.connection_id not in report.shut:
                report.shut.append(place.connection_id)
            return blob

    def _in_escrow(self) -> dict[str, int] | None:
        found: dict[str, int] = {}
        try:
            for copy in self.escrow.everything():
                key_id = None if copy is None else key_id_of(copy.refresh_token)
                if key_id is not None:
                    found[key_id] = found.get(key_id, 0) + 1
        except redis.RedisError:
            return None
        return found
