"""`disconnect` and `delete`: the end of one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import redis

from qbo_refresh.status import Ending
from worker import ending, reaching, runtime, settings
from worker.cli.choosing import resolve
from worker.cli.printing import json_option, print_json

if TYPE_CHECKING:
    from worker.ending import Ended


@click.command()
@click.argument("connection")
@click.option("--external-id", help="Only this one of its external ids leaves; the last one ends the connection.")
@json_option
def disconnect(*, connection: str, external_id: str | None, as_json: bool) -> int:
    """End one CONNECTION: forget its tokens, revoke its grant at Intuit, hold its syncs.

    An attempt in flight is overtaken, and what it brings is revoked. Exit status 1 if there was nothing to end.
    """
    here = runtime.build(settings.load())
    try:
        connection_id = resolve(here.db, here.settings, connection)
        ended = ending.disconnect(here.ender, connection_id, external_id=external_id)
    finally:
        here.close()
    if as_json:
        print_json(ended.as_dict())
    else:
        click.echo(_in_words(ended, external_id))
    return 1 if ended.outcome is Ending.SKIPPED else 0


def _in_words(ended: Ended, external_id: str | None) -> str:
    match ended.outcome:
        case Ending.LEFT:
            return f"The external id {external_id!r} has left connection {ended.connection_id}, which goes on."
        case Ending.SKIPPED if ended.reason == "unknown_external_id":
            return f"Connection {ended.connection_id} has no external id {external_id!r}; nothing changed."
        case Ending.SKIPPED:
            return f"Connection {ended.connection_id} was disconnected already; nothing changed."
        case Ending.DISCONNECTED:
            told = "its grant is revoked" if ended.revoked else "its grant is revoked as soon as that can be done"
            return f"Connection {ended.connection_id} is disconnected, and {told}."


@click.command()
@click.argument("connection")
@click.option("--yes", is_flag=True, help="Really: nothing brings it back.")
@click.option("--keep-grant", is_flag=True, help="Do not revoke: another system has the grant now.")
@json_option
def delete(*, connection: str, yes: bool, keep_grant: bool, as_json: bool) -> None:
    """Delete every trace of one CONNECTION, its grant revoked before.

    Its row, names, holds, candidates, consents, ledger, sealed copies in Redis and its events go, and the host is told
    nothing: `disconnect` it first if the host is to hear of it, and wait until the event is delivered.
    """
    here = runtime.build(settings.load())
    try:
        connection_id = resolve(here.db, here.settings, connection)
        if not yes:
            raise click.UsageError(f"Connection {connection_id} would be deleted for ever: say --yes.")
        try:
            deleted = ending.delete(here.ender, here.escrow, connection_id, keep_grant=keep_grant)
        except redis.RedisError as error:
            sentence = reaching.redis_trouble(error).sentence
            raise ending.NotDeleted(
                f"Connection {connection_id} is disconnected, but its sealed copies in Redis could not be deleted."
                f" {sentence} Delete it again later."
            ) from error
    finally:
        here.close()
    if as_json:
        print_json(
            {
                "connection_id": connection_id,
                "attempts": deleted.attempts,
                "events": deleted.events,
                "events_undelivered": deleted.undelivered,
            }
        )
        return
    click.echo(
        f"Connection {connection_id} is deleted, with {deleted.attempts} attempts and {deleted.events} events"
        f" ({deleted.undelivered} of them undelivered)."
    )
