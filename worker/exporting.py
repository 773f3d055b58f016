"""The use case: connections out of the tables into a file that `import` reads. Constant memory.

A token that leaves in clear is stale with the worker's next refresh: each connection is frozen in the transaction that
reads it, and one whose token may not be the live one is left to the worker first.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Place, Unsealable, realm_place
from qbo_refresh.status import Status
from worker.store.transfer import outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from qbo_refresh.sealing import Keyring
    from worker.database import Database
    from worker.store.transfer.outgoing import Choice, Outgoing

BATCH = 500


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to export.

    Attributes:
        sealed: Tokens and realm ids stay sealed: the file is worth nothing without TOKEN_KEYS.
        freeze: Freeze what is exported, and leave out what is unsettled: without it, the file is a mere copy.
        unsettled: Export a connection even if its token may not be the live one.
        wait: How long to wait for attempts under way.
    """

    sealed: bool = False
    freeze: bool = True
    unsettled: bool = False
    wait: timedelta = timedelta(0)


@dataclass(slots=True)
class Report:
    """What an export came to.

    Attributes:
        frozen: How many were not frozen before.
        without_token: Disconnected ones: there is nothing to take along.
        not_taken_over: Left out: an old refresher has them, and their tokens here are old.
        unsettled: Left out, and not frozen: an attempt is under way or in doubt, or a token waits to be tried.
        unreadable: Left out, and not frozen: a key is missing, or a blob does not open.
    """

    exported: int = 0
    frozen: int = 0
    needs_reauth: int = 0
    without_token: int = 0
    not_taken_over: int = 0
    unsettled: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exporter:
    """What an export needs."""

    db: Database
    keyring: Keyring
    wishes: Wishes
    progress: Callable[[str, int], None]
    pause: Callable[[float], None] = time.sleep

    def run(self, choice: Choice, target: TextIO) -> Report:
        """Write the chosen connections to a file, a line for each, and one more for each further external id."""
        choice = replace(choice, taken_over=self.wishes.freeze)
        without_token, not_taken_over = outgoing.left_out(self.db, choice)
        report = Report(without_token=without_token, not_taken_over=not_taken_over)
        self._pass(choice, target, report)
        end = time.monotonic() + self.wishes.wait.total_seconds()
        while report.unsettled and time.monotonic() < end:
            self.progress("Waiting for attempts under way", report.exported)
            self.pause(1.0)
            left, report.unsettled = report.unsettled, []
            self._pass(replace(choice, ids=left), target, report)
        return report

    def _pass(self, choice: Choice, target: TextIO, report: Report) -> None:
        after = 0
        while True:
            with self.db.transaction():
                batch = outgoing.read(self.db, choice, after=after, limit=BATCH, lock=self.wishes.freeze)
                lines, ids = self._lines(batch, report)
                frozen = outgoing.freeze(self.db, ids) if self.wishes.freeze else 0
            if not batch:
                return
            # Only after the commit: what is in the file is frozen, whatever happens.
            target.writelines(lines)
            report.frozen += frozen
            report.exported += len(ids)
            after = batch[-1].id
            self.progress("Exporting", report.exported)

    def _lines(self, batch: Iterable[Outgoing], report: Report) -> tuple[list[str], list[int]]:
        lines: list[str] = []
        ids: list[int] = []
        for each in batch:
            if each.unsettled and self.wishes.freeze and not self.wishes.unsettled:
                report.unsettled.append(each.id)
                continue
            try:
                texts = _sealed(each) if self.wishes.sealed else self._clear(each)
            except Unsealable:
                report.unreadable.append(each.id)
                continue
            lines += (json.dumps(line) + "\n" for line in _named(texts, each))
            ids.append(each.id)
            report.needs_reauth += each.status is Status.NEEDS_REAUTH
        return lines, ids

    def _clear(self, each: Outgoing) -> dict[str, object]:
        def opened(blob: bytes, kind: Field) -> str:
            return self.keyring.open(blob, Place(each.environment, each.id, each.grant_number, kind)).reveal()

        return {
            "realm_id": self.keyring.open(each.realm_id, realm_place(each.environment, each.id)).reveal(),
            "refresh_token": opened(each.refresh_token, Field.REFRESH_TOKEN),
            "access_token": opened(each.access_token, Field.ACCESS_TOKEN) if each.access_token else None,
        }


def _sealed(each: Outgoing) -> dict[str, object]:
    return {
        "id": each.id,
        "grant_number": each.grant_number,
        "sealed_realm_id": base64.b64encode(each.realm_id).decode(),
        "sealed_refresh_token": base64.b64encode(each.refresh_token).decode(),
    }


def _named(texts: dict[str, object], each: Outgoing) -> Iterator[dict[str, object]]:
    line = texts | {
        "environment": each.environment,
        "client_id": each.client_id,
        "label": each.label,
        "token_obtained_at": _iso(each.token_obtained_at),
        "access_expires_at": _iso(each.access_expires_at),
        "refresh_expires_at": _iso(each.refresh_expires_at),
        "hard_expires_at": _iso(each.hard_expires_at),
    }
    line = {name: value for name, value in line.items() if value is not None}
    for external_id in each.external_ids or (None,):
        yield line | ({"external_id": external_id} if external_id is not None else {})


def _iso(when: datetime | None) -> str | None:
    return when.astimezone(UTC).isoformat() if when else None
