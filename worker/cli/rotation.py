"""`keys rotate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from worker import settings
from worker.cli.choosing import open_database
from worker.cli.printing import json_option, print_json
from worker.escrow import UNSETTLED_S, RedisEscrow
from worker.resealing import Resealer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.resealing import Report

_DAYS = UNSETTLED_S // 86400


@click.command()
@click.option("--dry-run", is_flag=True, help="Open and seal everything, but write nothing.")
@json_option
def rotate(*, dry_run: bool, as_json: bool) -> int:
    """Seal every token and realm id anew with the first of TOKEN_KEYS, and tell which keys nothing needs any more.

    First put a new key before the old ones in TOKEN_KEYS, everywhere, and restart. Then run this, and take a key out
    once it is told to be removable.

    Safe while workers, imports and reconnects run, and to repeat: it takes up where it was stopped. Exit status 1 if
    something does not open.
    """
    config = settings.load()
    keyring, escrow = config.keyring(), RedisEscrow(config.redis())
    shown = 0

    def progress(looked_at: int) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            click.echo(f"\r{looked_at} connections looked at", err=True, nl=False)
            shown = looked_at

    with open_database(config) as db:
        report = Resealer(db, keyring, escrow, progress, keeps=not dry_run).run()
    if shown:
        click.echo("", err=True)
    removable = [] if dry_run else report.removable(keyring.key_ids)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "first_key": keyring.key_ids[0],
                "connections": report.sealed,
                "candidates": report.sealed_candidates,
                "consents_and_revocations": report.sealed_others,
                "changed_meanwhile": report.overtaken,
                "unreadable_blobs": report.shut_blobs,
                "unreadable_connections": report.shut,
                "blobs_by_key": report.keys,
                "escrow_by_key": report.in_escrow,
                "attempts_under_way": report.under_way,
                "removable": removable,
            }
        )
    else:
        click.echo("\n".join(_told(report, keyring.key_ids, removable, dry_run=dry_run)))
    return 1 if report.shut_blobs else 0


def _told(report: Report, key_ids: tuple[str, ...], removable: list[str], *, dry_run: bool) -> Iterator[str]:
    would = "would be " if dry_run else ""
    yield f"{report.sealed} connections and {report.sealed_candidates} candidates {would}sealed with {key_ids[0]!r}."
    if report.sealed_others:
        yield f"{report.sealed_others} values of consents on their way and of tokens to be revoked {would}sealed, too."
    if report.overtaken:
        yield f"{report.overtaken} changed meanwhile and were looked at again."
    if report.shut_blobs:
        named = ", ".join(map(str, report.shut))
        yield f"{report.shut_blobs} blobs do not open and stay as they are (connections {named}):"
        yield "`qbo-refresh doctor` tells which key is missing."
    if dry_run:
        return
    if report.in_escrow is None:
        yield "Redis cannot be asked what its escrow needs: take no key out; run this again."
        return
    for key_id in key_ids[1:]:
        yield f"{key_id!r}: {_state(key_id, report, removable)}"
    for key_id in sorted(set(report.keys) - set(key_ids)):
        yield f"{key_id!r}: {report.keys[key_id]} blobs need it, and it is not in TOKEN_KEYS: put it back."


def _state(key_id: str, report: Report, removable: list[str]) -> str:
    if key_id in removable:
        return "removable: nothing is sealed with it. Take it out of TOKEN_KEYS everywhere."
    if report.under_way:
        several = "1 attempt is" if report.under_way == 1 else f"{report.under_way} attempts are"
        return f"{several} under way that may hold a value sealed with it: repeat in a minute."
    blobs, copies = report.keys.get(key_id, 0), (report.in_escrow or {}).get(key_id, 0)
    if blobs:
        return f"needed by {blobs} blobs: a process still seals with it; restart those with the old order, and repeat."
    return f"needed by {copies} copies in the escrow, which live {_DAYS} days at most: repeat later."
