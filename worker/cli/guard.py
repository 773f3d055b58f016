"""`guard`: what the mass guard holds back, and letting it go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from worker import log, policy, settings
from worker.cli.choosing import app_options, choose_apps, open_database
from worker.cli.help import Group
from worker.cli.printing import json_option, print_json, printable
from worker.moments import about, from_now, long
from worker.policy.verdicts import GUARD_PATIENCE
from worker.store import control, guards

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.settings import Settings
    from worker.store.control import Known
    from worker.store.guards import Guarded, Suspect

_SHOWN = 20


@click.group(cls=Group, invoke_without_command=True)
@click.option("--limit", type=click.IntRange(min=0), default=_SHOWN, show_default=True, help="So many suspects an app.")
@json_option
@click.pass_context
def guard(context: click.Context, *, limit: int, as_json: bool) -> None:
    """Show each app's mass guard: open or tripped, who was refused, who waits for a verdict and for how long.

    More refusals within an hour than the threshold are Intuit's fault, or ours, and not the customers': verdicts wait.
    """
    if context.invoked_subcommand is not None:
        return
    config = settings.load()
    with open_database(config) as db:
        known = control.look(db, lease=config.pace.lease)
        found = [(each, guards.suspects(db, each.app_id, limit=limit)) for each in guards.guards(db)]
    if not found and not as_json:
        click.echo("No apps yet.")
    for number, (each, suspects) in enumerate(found):
        if as_json:
            print_json(_facts(each, suspects, known))
        else:
            click.echo("\n" * (number > 0) + "\n".join(_told(each, suspects, known)))


def _waits_until(each: Guarded, known: Known) -> datetime | None:
    return policy.waits_until(known.epoch_since, each.guard, now=known.at)


def _threshold(each: Guarded) -> int:
    """Return how many may be refused; refusals are whole, so that the fraction makes no difference."""
    return math.floor(policy.guard_threshold(each.population))


def _facts(each: Guarded, suspects: Sequence[Suspect], known: Known) -> dict[str, Any]:
    return {
        "environment": each.environment,
        "client_id": each.client_id,
        "state": "open" if each.guard.is_open else "tripped",
        "tripped_at": each.guard.tripped_at,
        "released_at": each.guard.released_at,
        "note": each.note,
        "refused_within_an_hour": each.recent,
        "threshold": _threshold(each),
        "population": each.population,
        "verdicts_wait_until": _waits_until(each, known),
        "suspects": each.suspects,
        "waiting": [
            {
                "id": suspect.id,
                "label": suspect.label,
                "suspect_since": suspect.suspect_since,
                "asked_again_at": suspect.asked_again_at,
                "withheld": suspect.withheld,
            }
            for suspect in suspects
        ],
    }


def _told(each: Guarded, suspects: Sequence[Suspect], known: Known) -> list[str]:
    threshold, tripped, waits = (
        _threshold(each),
        each.guard.tripped_at,
        _waits_until(each, known),
    )
    lines = [f"{each.environment} {printable(each.client_id)}"]
    if tripped is None or each.guard.is_open:
        lines.append("  guard      open: confirmed refusals become verdicts")
    else:
        patience = round(GUARD_PATIENCE.total_seconds() / 3600)
        lines += [
            f"  guard      TRIPPED at {about(tripped, each.at)}: verdicts wait",
            f"             for a calm hour, a release, or {patience} h of refusals while others work",
        ]
    if waits is not None:
        lines += [
            f"  database   changed: verdicts wait until {about(waits, each.at)},",
            "             or for a release",
        ]
    if each.guard.released_at is not None:
        note = f": {printable(each.note)}" if each.note else ""
        lines.append(f"  released   {from_now(each.guard.released_at, each.at)}{note}")
    lines.append(
        f"  refused    {each.recent:,} within the hour; it trips with more than {threshold:,} of {each.population:,}"
    )
    lines.append(f"  suspect    {f'{each.suspects:,}' if each.suspects else 'none'}")
    for suspect in suspects:
        label = f" ({printable(suspect.label)})" if suspect.label else ""
        why = f", waits for {_WAITS_FOR.get(suspect.withheld, suspect.withheld)}" if suspect.withheld else ""
        lines.append(
            f"    {suspect.id}{label} for {long(each.at - suspect.suspect_since)}; asked again"
            f" {_when(suspect.asked_again_at, each.at)}{why}"
        )
    if len(suspects) < each.suspects:
        lines.append(f"    and {each.suspects - len(suspects):,} more (--limit {each.suspects} shows all)")
    return lines


_WAITS_FOR = {
    "lease": "an attempt that may yet come back",
    "guard": "the guard",
    "epoch": "the day after the database's change",
    "witness": "another connection to work",
    "candidate": "a token to be tried",
    "previous": "the previous token to be tried",
}


def _when(moment: datetime | None, at: datetime) -> str:
    if moment is None:
        return "never"
    return "with the next sweep" if moment <= at else from_now(moment, at)


@guard.command()
@click.option("--reason", required=True, help="Why these refusals are believed; kept, and shown by `guard`.")
@app_options
@json_option
def release(*, reason: str, client_id: str | None, environment: str | None, as_json: bool) -> None:
    """Let verdicts pass again: a suspect that Intuit refuses once more is marked needs_reauth, its customer told.

    Releases a guard that tripped, and the day's wait after a change of the database. Look first whether the refusals
    are the customers' own: `qbo-refresh app` for our keys, Intuit's status page, and `explain` for one of them.
    """
    config = settings.load()
    with open_database(config) as db:
        known = control.look(db, lease=config.pace.lease)
        chosen = choose_apps(guards.guards(db), client_id=client_id, environment=environment)
        shut = [each for each in chosen if not each.guard.is_open or _waits_until(each, known) is not None]
        guards.release(db, [each.app_id for each in shut], reason=reason)
    for each in shut:
        log.info("guard.released", app_id=each.app_id, suspects=each.suspects)
    if as_json:
        print_json({"released": len(shut), "suspects": sum(each.suspects for each in shut)})
        return
    for each in shut:
        click.echo(f"{each.environment} {printable(each.client_id)}: released.\n{_follows(each, config)}")
    if not shut:
        click.echo("Nothing is held back: every guard is open and no wait stands. Nothing changed.")


def _follows(each: Guarded, config: Settings) -> str:
    if not each.suspects:
        return "No connection is suspect now."
    several = "1 suspect is" if each.suspects == 1 else f"{each.suspects:,} suspects are"
    return (
        f"{several} asked once more, within {round(config.confirm_after_seconds / 60)} minutes\n"
        "of the last time; those that are refused again must reconnect, and are told."
    )
