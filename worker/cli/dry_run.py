"""`dry-run`: what the next sweep would do and what it would not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from worker import dispatch, health, preview, queues, settings
from worker.cli.choosing import open_database
from worker.cli.printing import json_option, print_json, printable
from worker.moments import from_now

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from worker.preview import Preview
    from worker.settings import Settings


@click.command("dry-run")
@json_option
def dry_run(*, as_json: bool) -> None:
    """Show what the next sweep would publish and what it would not, by reason. Publishes and changes nothing.

    The numbers add up to the fleet. Costs one pass over the connections: about a second for each million.
    """
    config = settings.load()
    with open_database(config) as db:
        found = preview.take(db, config, queue_trouble=_queue_trouble(config))
    if as_json:
        print_json(_facts(found))
    else:
        click.echo("\n".join(_told(found)))


def _queue_trouble(config: Settings) -> str | None:
    lengths, trouble = health.queue_lengths(config)
    if trouble is not None or lengths is None:
        return "redis_away"
    return "queue_full" if lengths[queues.SWEEP] > dispatch.longest_queue(config.refresh_per_minute) else None


def _facts(found: Preview) -> dict[str, Any]:
    names = {app.id: app for app in found.apps}
    return {
        "at": found.at,
        "would_publish": found.published,
        "at_most": found.budget,
        "stopped": found.stopped,
        "connections": sum(group.connections for group in found.groups),
        "groups": [
            {
                "environment": names[group.app_id].environment,
                "client_id": names[group.app_id].client_id,
                "reason": group.reason,
                "detail": group.detail,
                "connections": group.connections,
                "first_at": group.until,
            }
            for group in found.groups
        ],
    }


@dataclass(slots=True)
class _Line:
    """The groups of all apps that have reason and detail in common."""

    connections: int = 0
    until: datetime | None = None
    by_app: dict[int, int] = field(default_factory=dict)


# In the order in which they are told.
_WORDS = {
    preview.WOULD_GO: "would be published",
    "over_the_rate": "due, but over the rate: the sweeps after it take them",
    "throttled": "due, but Intuit throttles the app",
    "blocked": "due, but the app's client secret is refused: one with each sweep tries it",
    "everything_frozen": "due, but everything is frozen (`thaw --all` ends it)",
    "queue_full": "due, but the queue holds more than two minutes' worth already",
    "redis_away": "due, but Redis is away",
    "new_epoch": "due, but the database has just changed: quiet for one lease",
    "another_database": "due, but this is another database (`adopt-database --help`)",
    "no_control_row": "due, but the control row is missing (`doctor`)",
    "no_keys": "belong to an app whose keys are not in this configuration",
    "queued": "published already, not begun yet",
    "under_way": "under way now",
    "in_doubt": "in doubt: asked again when the lease is over",
    "impossible_lease": "under a lease that ends later than any can (`doctor`)",
    "frozen": "frozen one by one or by label (`list --frozen`)",
    "second_chance": "needs_reauth, a second chance coming",
    "needs_reauth": "needs_reauth: only a reconnect helps",
    "disconnected": "disconnected",
    "never": "never: no next refresh is planned (`list` names them)",
}


def _words(reason: str, detail: str | None) -> str:
    if reason == "paused":
        return f"pause after {printable(detail or 'a failure')}"
    if reason == preview.WOULD_GO and detail == "probe":
        return "would be published to try a refused client secret"
    return _WORDS.get(reason, "not due yet")


def _told(found: Preview) -> Iterable[str]:
    lines: dict[tuple[str, str | None], _Line] = {}
    for group in found.groups:
        line = lines.setdefault((group.reason, group.detail), _Line())
        line.connections += group.connections
        line.until = min((moment for moment in (line.until, group.until) if moment), default=None)
        line.by_app[group.app_id] = group.connections
    total = sum(line.connections for line in lines.values())
    width = len(f"{total:,}")
    slowly = f", {found.per_sweep:,} once the fleet has started" if found.budget < found.per_sweep else ""
    if found.stopped == "everything_frozen":
        yield "Everything is frozen: no sweep publishes anything until `qbo-refresh thaw --all`."
    at_most = f"at most {found.budget:,}{slowly}"
    yield f"The next sweep would publish {found.published:,} of {total:,} connections ({at_most})."
    yield ""
    order = list(_WORDS)
    place = {reason: order.index(reason) for reason in order}
    for (reason, detail), line in sorted(lines.items(), key=lambda each: (place.get(each[0][0], 12), str(each[0][1]))):
        yield f"{line.connections:>{width},}  {_words(reason, detail)}{_until(reason, line, found.at)}"
        if len(found.apps) > 1:
            names = {app.id: f"{app.environment} {printable(app.client_id)}" for app in found.apps}
            yield from (f"{'':{width}}    {number:,} of {names[app_id]}" for app_id, number in line.by_app.items())
    yield f"{total:>{width},}  in all"


def _until(reason: str, line: _Line, at: datetime) -> str:
    if line.until is None or line.until <= at or reason in {"frozen", "no_keys"}:
        return ""
    return f"; {'next try' if reason == 'blocked' else 'first'} {from_now(line.until, at)}"
