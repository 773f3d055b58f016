"""The use case: a file of connections into the tables, all of it or, if that is wanted, all that is good.

Lines go by in blocks: understood, compared with what is here, sealed, staged. Only then are they compared with each
other and written, in the same transaction. Memory does not grow with the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import psycopg
from sqlalchemy.exc import DBAPIError

from qbo_refresh.errors import QboRefreshError
from qbo_refresh.sealing import Field, Place, realm_place
from worker.database import UNIQUE_VIOLATION, DatabaseUnavailable, is_passing, sqlstate
from worker.importing import rejects, sealed
from worker.importing.judging import Action, judge
from worker.importing.layout import BadLine, Format, Layout, layout_of
from worker.importing.rows import AppIds, Row, understand
from worker.store import apps, control
from worker.store.transfer import here, staging

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from typing import TextIO

    from qbo_refresh.sealing import Keyring, Lookup
    from qbo_refresh.secret import Secret
    from worker.database import Database
    from worker.importing.lines import Line, Lines
    from worker.settings import App

BLOCK_LINES, BLOCK_BYTES = 2000, 2 * 1024 * 1024
REASONS_SHOWN = 100


class Overtaken(QboRefreshError):
    """Somebody else added one of these connections at the same time."""


class Progress(Protocol):
    """Told how far it is."""

    def __call__(self, step: str, *, bytes_read: int, lines_read: int) -> None:
        """Take the step's name and what has been read."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to import.

    Attributes:
        format: None to tell by the first character.
        update: A token newer than the one that is here becomes a candidate.
        frozen: New connections are not refreshed before they are thawed.
        skip_bad: Import the good lines even if others are bad.
        dry_run: Do everything but keep nothing.
    """

    format: Format | None = None
    update: bool = False
    frozen: bool = False
    skip_bad: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class Report:
    """What an import came to. The counts are lines, and add up to `read`.

    Attributes:
        named: Lines that only added an external id.
        due_now: New connections that are refreshed at once, because their grants die soon.
        kept: Whether anything was written that stays.
        reasons: The first bad lines.
    """

    read: int = 0
    imported: int = 0
    unchanged: int = 0
    superseded: int = 0
    updated: int = 0
    older: int = 0
    named: int = 0
    rejected: int = 0
    due_now: int = 0
    kept: bool = False
    reasons: list[tuple[int, str]] = field(default_factory=list)


class _NothingKept(Exception):
    """Rolls the transaction back."""


@dataclass(frozen=True, slots=True)
class Importer:
    """What an import needs."""

    db: Database
    keyring: Keyring
    lookup: Lookup
    apps: Sequence[App]
    wishes: Wishes
    progress: Progress

    def run(self, lines: Lines, *, rejected: TextIO | None = None) -> Report:
        """Import a file's lines in one transaction.

        Args:
            lines: The file; if there is a file of rejects, one that can be read again.
            rejected: Where the bad lines go, tokens and all, with the reasons.

        Raises:
            UnusableFile: It is no text.
            WrongLookupKey: Nothing that is here would be recognised.
            DatabaseUnavailable: PostgreSQL went away.
            Overtaken: Another import, or a first connection, came between.
        """
        report = Report()
        try:
            control.check_lookup(self.db, self.lookup)
            # In a transaction of their own: a worker that starts meanwhile would wait for a new app's row.
            app_ids: AppIds = {
                (app.environment, app.client_id): apps.ensure(
                    self.db, environment=app.environment, client_id=app.client_id
                )
                for app in self.apps
            }
            with self.db.transaction():
                self._run(lines, app_ids, report, rejected)
                _keep(report)
        except _NothingKept:
            pass
        except (DBAPIError, psycopg.Error) as error:
            if sqlstate(error) == UNIQUE_VIOLATION:
                raise Overtaken(
                    "Somebody else added one of these connections meanwhile: nothing was imported, run it again."
                ) from error
            if is_passing(error):
                raise DatabaseUnavailable(
                    "PostgreSQL went away: run it again, what is here by then is left as it is."
                ) from error
            raise
        return report

    def _run(self, lines: Lines, app_ids: AppIds, report: Report, rejected: TextIO | None) -> None:
        now = staging.begin(self.db)
        layout: Layout | None = None
        try:
            for layout, block in _blocks(lines, self.wishes.format):
                report.read += len(block)
                self._stage(layout, block, app_ids, now)
                self.progress("Reading", bytes_read=lines.bytes_read, lines_read=lines.lines_read)
        except BadHeader as error:
            report.rejected, report.reasons = 1, [(error.line, str(error))]
            return
        self.progress("Comparing", bytes_read=lines.bytes_read, lines_read=lines.lines_read)
        report.rejected = staging.compare_lines(self.db)
        report.reasons = staging.refusals(self.db, after=0, limit=REASONS_SHOWN)
        if rejected is not None and layout is not None and report.rejected:
            rejects.write(rejected, lines.again(), layout, self._refusals())
        if report.rejected and not self.wishes.skip_bad:
            return
        self.progress("Writing", bytes_read=lines.bytes_read, lines_read=lines.lines_read)
        self._write(report)

    def _write(self, report: Report) -> None:
        counts = staging.count(self.db)
        for action, (number, due_now) in counts.items():
            setattr(report, _COUNTED[action], number)
            report.due_now += due_now
        if not (report.imported or report.named or report.updated):
            return
        offered = staging.write(self.db, frozen=self.wishes.frozen)
        # Those that were refreshed or reconnected since their line was read.
        report.older += report.updated - offered
        report.updated = offered
        report.kept = not self.wishes.dry_run

    def _refusals(self) -> Iterator[tuple[int, str]]:
        after = 0
        while batch := staging.refusals(self.db, after=after, limit=BLOCK_LINES):
            yield from batch
            after = batch[-1][0]

    def _stage(self, layout: Layout, block: Sequence[Line], app_ids: AppIds, now: datetime) -> None:
        refusals: list[tuple[int, str]] = []
        rows: list[Row] = []
        for line in block:
            try:
                values = sealed.opened(layout.values(line), self.keyring)
                rows.append(understand(values, line.number, apps=app_ids, now=now))
            except BadLine as error:
                refusals.append((line.number, str(error)))
        judged = self._judge(rows, refusals)
        ids = here.reserve_ids(self.db, sum(action is Action.NEW for _, _, _, action, _ in judged))
        staging.stage(self.db, (self._staged(*each, ids=ids, now=now) for each in judged))
        if refusals:
            staging.refuse(self.db, refusals)

    def _judge(self, rows: Iterable[Row], refusals: list[tuple[int, str]]) -> list[_Judged]:
        keyed = [
            (row, (row.app_id, self.lookup.realm_hash(row.realm_id), self.lookup.fingerprint(row.refresh_token)))
            for row in rows
        ]
        found_here = here.find(self.db, [key for _, key in keyed])
        holders = here.holders(self.db, [key[2] for _, key in keyed])
        named = here.named(self.db, [row.external_id for row, _ in keyed if row.external_id])
        judged: list[_Judged] = []
        for row, key in keyed:
            found, name = found_here.get(key), named.get(row.external_id or "")
            try:
                action = judge(
                    row, key[2], found, holders=holders.get(key[2], ()), named=name, update=self.wishes.update
                )
            except BadLine as error:
                refusals.append((row.line, str(error)))
            else:
                judged.append((row, key, found, action, row.external_id is not None and name is None))
        return judged

    def _staged(
        self,
        row: Row,
        key: here.Key,
        found: here.Found | None,
        action: Action,
        adds_name: bool,  # noqa: FBT001  # one of a tuple's values
        *,
        ids: Iterator[int],
        now: datetime,
    ) -> staging.Staged:
        connection_id, grant = (found.id, found.grant_number) if found else (next(ids), 1)
        plain = staging.Staged(row.line, action, connection_id, grant, *key, row.external_id, adds_name)
        if action not in {Action.NEW, Action.CANDIDATE}:
            return plain

        def seal(secret: Secret, kind: Field) -> bytes:
            return self.keyring.seal(secret, Place(row.environment, connection_id, grant, kind))

        return plain._replace(
            label=row.label,
            realm_id=self.keyring.seal(row.realm_id, realm_place(row.environment, connection_id)),
            refresh_token=seal(row.refresh_token, Field.REFRESH_TOKEN),
            access_token=seal(row.access_token, Field.ACCESS_TOKEN) if row.access_token else None,
            token_obtained_at=row.token_obtained_at,
            access_expires_at=row.access_expires_at,
            refresh_expires_at=row.refresh_expires_at,
            hard_expires_at=row.hard_expires_at,
            next_refresh_at=now + row.first_due_in(connection_id, now=now),
        )


def _keep(report: Report) -> None:
    if not report.kept:
        raise _NothingKept


_Judged = tuple[Row, "here.Key", "here.Found | None", Action, bool]
_COUNTED = {
    Action.NEW: "imported",
    Action.UNCHANGED: "unchanged",
    Action.SUPERSEDED: "superseded",
    Action.OLDER: "older",
    Action.CANDIDATE: "updated",
    "named": "named",
}


class BadHeader(BadLine):
    """The line that says what the others mean is wrong: no line can be read."""

    def __init__(self, line: int, *reasons: str) -> None:
        super().__init__(*reasons)
        self.line = line


def _blocks(lines: Iterable[Line], chosen: Format | None) -> Iterator[tuple[Layout, list[Line]]]:
    each = iter(lines)
    first = next(each, None)
    if first is None:
        return
    try:
        layout = layout_of(first, chosen)
    except BadLine as error:
        raise BadHeader(first.number, *error.reasons) from None
    block, size = ([first] if layout.format is Format.JSON_LINES else []), len(first.raw)
    for line in each:
        block.append(line)
        size += len(line.raw)
        if len(block) >= BLOCK_LINES or size >= BLOCK_BYTES:
            yield layout, block
            block, size = [], 0
    if block:
        yield layout, block
