"""`import` and `export`."""

from __future__ import annotations

import contextlib
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast

import click

from worker import settings
from worker.cli.choosing import open_database, resolve
from worker.cli.printing import json_option
from worker.cli.transfer import files, telling
from worker.exporting import Exporter
from worker.exporting import Wishes as ExportWishes
from worker.importing.layout import Format
from worker.importing.lines import Lines
from worker.importing.load import Importer, Wishes
from worker.store.transfer.outgoing import Choice

_ENDINGS = {".csv": Format.CSV, ".jsonl": Format.JSON_LINES, ".ndjson": Format.JSON_LINES}


@click.command("import")
@click.argument("file")
@click.option("--format", "chosen", type=click.Choice([str(each) for each in Format]), help="Instead of guessing.")
@click.option("--skip-bad", is_flag=True, help="Import the good lines even if others are bad.")
@click.option("--rejects", metavar="FILE", help="Write the bad lines there, with the reasons. Holds tokens: mode 0600.")
@click.option("--frozen", is_flag=True, help="New connections are not refreshed before `qbo-refresh thaw`.")
@click.option("--update", is_flag=True, help="Try tokens that are newer, by token_obtained_at, than those here.")
@click.option("--dry-run", is_flag=True, help="Do everything, but keep nothing.")
@json_option
def import_(
    *,
    file: str,
    chosen: str | None,
    skip_bad: bool,
    rejects: str | None,
    frozen: bool,
    update: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Take over the connections in FILE: CSV under a header, or JSON lines; - is standard input.

    \b
    Columns  realm_id (digits), refresh_token
    and      access_token, environment, client_id, external_id, label,
             token_obtained_at, access_expires_at, refresh_expires_at,
             hard_expires_at (times in ISO 8601 with a zone)

    environment and client_id are needed if several apps are configured. All or nothing, unless --skip-bad. A connection
    that is here keeps its token, label and times; a further line with its token and another external_id adds that name.
    A token that --update lets in replaces the one here only after Intuit has accepted it.

    Stop whatever refreshed these connections before: two that refresh one connection cost it its grant.

    Exit status 1 if a line is bad, or there is none.
    """  # noqa: D301  # click wants the control character, it keeps the lines below it
    config = settings.load()
    wishes = Wishes(
        format=Format(chosen) if chosen else _ENDINGS.get(Path(file).suffix.lower()),
        update=update,
        frozen=frozen,
        skip_bad=skip_bad,
        dry_run=dry_run,
    )
    settings.demand(config.database, config.apps, config.keyring, config.lookup)
    apps, keyring, lookup = config.apps(), config.keyring(), config.lookup()
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(files.opened(file))
        target = stack.enter_context(files.owner_only(Path(rejects))) if rejects else None
        spool = None
        if rejects and not stream.seekable():
            spool = stack.enter_context(tempfile.TemporaryFile(dir=Path(rejects).parent))
        db = stack.enter_context(open_database(config))
        show = stack.enter_context(files.bar(files.size(stream)))
        importer = Importer(db, keyring, lookup, apps, wishes, show)
        try:
            report = importer.run(Lines(stream, spool=cast("BinaryIO | None", spool)), rejected=target)
        except KeyboardInterrupt:
            click.echo("Not imported to its end: import it again; what is here already stays as it is.", err=True)
            raise
    if rejects and not Path(rejects).stat().st_size:
        Path(rejects).unlink()
        rejects = None
    telling.imported(report, wishes, rejects=rejects, as_json=as_json)
    return 1 if report.rejected or not report.read else 0


@click.command()
@click.argument("file")
@click.argument("connection", nargs=-1)
@click.option("--freeze", is_flag=True, help="Freeze each connection in the transaction that reads it.")
@click.option("--sealed", is_flag=True, help="Leave tokens and realm ids sealed; TOKEN_KEYS opens them at the import.")
@click.option("--label", help="The connections with this label.")
@click.option("--unsettled", is_flag=True, help="Also those whose token may have been replaced in an answer we lost.")
@click.option(
    "--wait",
    type=click.IntRange(0, 86400),
    default=90,
    show_default=True,
    help="Seconds to wait for attempts under way.",
)
@json_option
def export(
    *,
    file: str,
    connection: tuple[str, ...],
    freeze: bool,
    sealed: bool,
    label: str | None,
    unsettled: bool,
    wait: int,
    as_json: bool,
) -> int:
    """Write connections as JSON lines that `import` reads to FILE: all, those of a --label, or each CONNECTION.

    FILE is made anew, readable by its owner alone; - is standard output, unless that is a terminal. In clear, --freeze
    is demanded: a token that the worker goes on refreshing is stale within a day. --sealed is for keeping a copy or for
    moving to a database with the same TOKEN_KEYS; it carries no access tokens.

    A connection with an attempt under way or in doubt is waited for, then left out and not frozen. Exit status 1 if one
    was left out; export those again later, by name. `import` refuses a realm id that is not made of digits: Intuit's
    are, but a connection that was made by a consent has the id that Intuit said, whatever it is.
    """
    if not (freeze or sealed):
        raise click.UsageError("Say --freeze (tokens in clear, no longer refreshed here) or --sealed.")
    if label is not None and connection:
        raise click.UsageError("Name connections or a --label, not both.")
    config = settings.load()
    wishes = ExportWishes(sealed=sealed, freeze=freeze, unsettled=unsettled, wait=timedelta(seconds=wait))
    keyring = config.keyring()
    with contextlib.ExitStack() as stack:
        db = stack.enter_context(open_database(config))
        ids = [resolve(db, config, name) for name in connection] or None
        target = stack.enter_context(files.export_target(file))
        show = stack.enter_context(files.bar(None))
        exporter = Exporter(db, keyring, wishes, lambda step, n: show(step, bytes_read=0, lines_read=n))
        report = exporter.run(Choice(ids, label), target)
    telling.export(report, wishes, as_json=as_json, err=file == "-")
    return 1 if report.unsettled or report.unreadable else 0
