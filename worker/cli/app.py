"""`app`: the Intuit apps, what is wrong with their client secrets, and letting them go again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from worker import settings
from worker.cli.choosing import app_options, choose_apps, open_database
from worker.cli.help import Group
from worker.cli.printing import counted, json_option, print_json, printable
from worker.moments import about, from_now
from worker.store import apps as store
from worker.store import held, totals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.store.totals import AppState, Block, Total


@click.group(cls=Group, invoke_without_command=True)
@json_option
@click.pass_context
def app(context: click.Context, *, as_json: bool) -> None:
    """Show each Intuit app: its keys, blocked secrets, throttle, guard and connections. One pass over them."""
    if context.invoked_subcommand is not None:
        return
    config = settings.load()
    with open_database(config) as db:
        found = totals.app_states(db)
        mine = held.secrets(found, config) or ()
        counted = totals.totals(db, mine)
        at = totals.control(db).at
    hashes_of = {each.app_id: each.secret_hashes for each in mine}
    if not found and not as_json:
        click.echo("No apps yet: the first worker or the first import makes them.")
    for number, each in enumerate(found):
        hashes = hashes_of.get(each.id, ())
        blocked = _blocked(each.blocks, hashes)
        facts = _facts(each, blocked, hashes, [total for total in counted if total.app_id == each.id])
        if as_json:
            print_json(facts)
        else:
            click.echo("\n" * (number > 0) + "\n".join(_told(each, blocked, facts, at)))


@dataclass(frozen=True, slots=True)
class _Blocked:
    """A blocked secret.

    Attributes:
        whose: `current` or `previous` of this configuration, or another deployment's.
        is_tried: A connection that is due may try it.
    """

    block: Block
    whose: str
    is_tried: bool


def _blocked(blocks: Sequence[Block], hashes: Sequence[bytes]) -> list[_Blocked]:
    roles = dict(zip(hashes, ("current", "previous"), strict=False))
    whose = [roles.get(block.secret_hash, "another deployment's") for block in blocks]
    # Behind a current one that works the previous one is never tried.
    tried = {"current", "previous"} if "current" in whose else set()
    return [_Blocked(block, role, role in tried) for block, role in zip(blocks, whose, strict=True)]


def _facts(
    each: AppState, blocked: Sequence[_Blocked], hashes: Sequence[bytes], counted: Sequence[Total]
) -> dict[str, Any]:
    by_status: dict[str, int] = {}
    for total in counted:
        by_status[total.status] = by_status.get(total.status, 0) + total.connections
    return {
        "environment": each.environment,
        "client_id": each.client_id,
        "secrets_here": len(hashes),
        "blocked": [
            {"secret": b.whose, "reason": b.block.reason, "since": b.block.since, "next_probe": b.block.probe_at}
            for b in blocked
        ],
        "throttled_until": each.throttled_until,
        "guard": "open" if each.guard.is_open else "tripped",
        "guard_tripped_at": each.guard.tripped_at,
        "last_sweep": each.swept_at,
        "connections": by_status,
        "refreshed_with_previous_secret": sum(total.previous_secret for total in counted),
    }


def _told(each: AppState, blocked: Sequence[_Blocked], facts: dict[str, Any], at: datetime) -> list[str]:
    secrets = {0: "not here: its connections are left alone", 1: "one here", 2: "current and previous here"}
    lines = [
        f"{each.environment} {printable(each.client_id)}",
        f"  secrets      {secrets[min(facts['secrets_here'], 2)]}",
    ]
    for one in blocked:
        lines += [
            f"  blocked      {one.whose} secret, since {about(one.block.since, at)}:",
            f"               Intuit answers {printable(one.block.reason)}{_next_try(one, at)}",
        ]
    if each.throttled_until:
        lines.append(f"  throttled    until {about(each.throttled_until, at)}")
    tripped = each.guard.tripped_at
    if tripped is not None and not each.guard.is_open:
        lines.append(f"  guard        tripped {from_now(tripped, at)}: `qbo-refresh guard` tells more")
    counts = ", ".join(f"{status} {number}" for status, number in sorted(facts["connections"].items()))
    lines.append(f"  connections  {counts or 'none'}")
    old = facts["refreshed_with_previous_secret"]
    if facts["secrets_here"] > 1 or old:
        lines.append(f"  old secret   {old} refreshed last with another secret than the one in use")
    lines.append(f"  last sweep   {from_now(each.swept_at, at) or 'never'}")
    return lines


def _next_try(one: _Blocked, at: datetime) -> str:
    if not one.is_tried:
        return "; not tried while the current one works" if one.whose == "previous" else ""
    probe_at = one.block.probe_at
    when = "with the next connection that is due" if probe_at is None or probe_at <= at else from_now(probe_at, at)
    return f"; next try {when}"


@app.command()
@app_options
@json_option
def unblock(*, client_id: str | None, environment: str | None, as_json: bool) -> None:
    """Let all connections of an app go at once, and not one with each sweep until a secret works.

    For after the client secret was mended at Intuit or here. A secret that is still refused is blocked again by the
    first connection that meets it. Verdicts of the last 30 days are asked about once more.
    """
    with open_database(settings.load()) as db:
        chosen = choose_apps(totals.app_states(db), client_id=client_id, environment=environment)
        lifted = {}
        for each in chosen:
            with db.transaction():
                lifted[each] = store.lift_blocks(db, each.id, environment=each.environment, client_id=each.client_id)
    if as_json:
        print_json({"unblocked": sum(lifted.values())})
        return
    for each, number in lifted.items():
        if number:
            click.echo(
                f"{each.environment} {printable(each.client_id)}: {counted(number, 'secret')} unblocked;"
                " the next sweep takes all."
            )
    if not any(lifted.values()):
        click.echo("Nothing was blocked; nothing changed.")
