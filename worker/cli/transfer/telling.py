"""What `import` and `export` say when they are done: never a token, never a realm id."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from worker.cli.printing import counted, listed, print_json
from worker.importing.load import REASONS_SHOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker import exporting
    from worker.importing.load import Report, Wishes


def imported(report: Report, wishes: Wishes, *, rejects: str | None, as_json: bool) -> None:
    """Print what an import came to; `rejects` names the file of bad lines, if there is one."""
    if as_json:
        _print_import(report, wishes)
    else:
        _tell_import(report, wishes, rejects)


def export(report: exporting.Report, wishes: exporting.Wishes, *, as_json: bool, err: bool) -> None:
    """Print what an export came to, on standard error if the connections went to standard output."""
    if as_json:
        with contextlib.redirect_stdout(sys.stderr if err else sys.stdout):
            print_json(
                {
                    "exported": report.exported,
                    "frozen": report.frozen,
                    "needs_reauth": report.needs_reauth,
                    "without_token": report.without_token,
                    "not_taken_over": report.not_taken_over,
                    "unsettled": report.unsettled,
                    "unreadable": report.unreadable,
                }
            )
        return
    for sentence in _export_sentences(report, wishes):
        click.echo(sentence, err=err)


def _print_import(report: Report, wishes: Wishes) -> None:
    print_json(
        {
            "read": report.read,
            "imported": report.imported,
            "unchanged": report.unchanged,
            "superseded": report.superseded,
            "updated": report.updated,
            "older": report.older,
            "named": report.named,
            "rejected": report.rejected,
            "due_now": report.due_now,
            "changed": report.kept,
            "dry_run": wishes.dry_run,
            "reasons": [{"line": line, "reason": reason} for line, reason in report.reasons],
        }
    )


def _tell_import(report: Report, wishes: Wishes, rejects: str | None) -> None:
    for line, reason in report.reasons:
        click.echo(f"Line {line}: {reason}.", err=True)
    if report.rejected > REASONS_SHOWN:
        click.echo(f"… and {report.rejected - REASONS_SHOWN:,} more.", err=True)
    if rejects:
        click.echo(f"The bad lines are in {rejects}: it holds tokens, remove it when you are done.", err=True)
    if not report.read and not report.rejected:
        click.echo("The file holds no connections: nothing was imported.")
    elif not report.read:
        click.echo("Nothing was imported: the first line is wrong.")
    elif report.rejected and not wishes.skip_bad:
        click.echo(
            f"Nothing was imported: {counted(report.rejected, 'bad line')} among {report.read:,}. Mend what is"
            " wrong, or import the others with --skip-bad --rejects FILE."
        )
    else:
        for sentence in _import_sentences(report, wishes):
            click.echo(sentence)


def _import_sentences(report: Report, wishes: Wishes) -> Iterator[str]:
    if wishes.dry_run:
        yield "A dry run: nothing of what follows is kept."
    if report.imported:
        first = f"; the {report.due_now:,} that are near their expiry come first" if report.due_now else ""
        when = "frozen until `qbo-refresh thaw`" if wishes.frozen else f"refreshed over the next 24 hours{first}"
        yield f"{counted(report.imported, 'connection')} imported, {when}."
    if report.updated:
        yield (
            f"{counted(report.updated, 'newer token')} taken: at once where the connection is frozen and at rest; to be"
            " tried now where it is not, and what Intuit accepts replaces the one here."
        )
    if report.named:
        yield f"{counted(report.named, 'external id')} added."
    if not (report.imported or report.updated or report.named):
        yield "Nothing changed."
    for number, meaning in (
        (report.unchanged, "unchanged: here already, with this token"),
        (report.superseded, "superseded: here already, and refreshed since, or about to be tried"),
        (report.older, "older: what is here was obtained later"),
        (report.rejected, "bad, and left out"),
    ):
        if number:
            yield f"{number:,} {meaning}."


def _export_sentences(report: exporting.Report, wishes: exporting.Wishes) -> Iterator[str]:
    frozen = f", {report.frozen:,} of them frozen by this" if wishes.freeze else ""
    yield f"{counted(report.exported, 'connection')} exported{frozen}."
    if report.needs_reauth:
        yield f"{report.needs_reauth:,} of them need re-authorization: their tokens are probably dead."
    if report.without_token:
        yield f"{report.without_token:,} have no token, for they were disconnected."
    if report.not_taken_over:
        yield f"{report.not_taken_over:,} left out: not taken over, so that an old refresher has their tokens."
    if report.unsettled:
        yield (
            f"{len(report.unsettled):,} left out and not frozen ({listed(report.unsettled)}): an attempt is under way"
            " or in doubt. Let the workers settle it (thaw those that are frozen), then export them again."
        )
    if report.unreadable:
        yield (
            f"{len(report.unreadable):,} left out and not frozen ({listed(report.unreadable)}): their sealed values do"
            " not open. Is a key missing from TOKEN_KEYS?"
        )
