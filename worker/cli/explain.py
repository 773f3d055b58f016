"""`explain`: one connection's story, attempt by attempt."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

import click

from qbo_refresh.errors import UnknownConnection
from worker import explaining, settings
from worker.attempt import IF_DUE
from worker.cli.choosing import open_database, resolve
from worker.cli.printing import json_option, print_json, printable
from worker.moments import exactly
from worker.store import claims, held, history, totals, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.database import Database
    from worker.explaining import Prospect
    from worker.settings import Settings
    from worker.store.history import Story

_WIDTH = 80
_NAME = 12
_WHEN = 21


@click.command()
@click.argument("connection")
@click.option(
    "--limit", type=click.IntRange(min=0), default=200, show_default=True, help="The newest so many attempts; 0: all."
)
@json_option
def explain(*, connection: str, limit: int, as_json: bool) -> None:
    """Tell one CONNECTION's story: what happened, what was decided and why, what comes next and when.

    From the ledger, holds, candidates and events. Neither tokens nor the realm are shown. Times are UTC.
    """
    config = settings.load()
    with open_database(config) as db:
        story = _story(db, config, connection, limit)
        prospect = _prospect(db, config, story)
    if as_json:
        print_json(_facts(story, prospect))
    else:
        width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
        click.echo("\n".join(_told(story, prospect, width)))


def _story(db: Database, config: Settings, name: str, limit: int) -> Story:
    try:
        connection_id = resolve(db, config, name)
    except UnknownConnection:
        # A ledger outlives its connection: that is no error, and what it says may be why somebody asks.
        gone = history.story(db, int(name), limit=limit or None) if re.fullmatch(r"[0-9]{1,18}", name) else None
        if gone is None:
            raise
        return gone
    story = history.story(db, connection_id, limit=limit or None)
    if story is None:
        raise UnknownConnection(f"Connection {connection_id} was deleted this moment.")
    return story


def _prospect(db: Database, config: Settings, story: Story) -> Prospect | None:
    evidence = verdicts.observe(db, story.connection_id)
    if story.row is None or evidence is None:
        return None
    keys = held.secrets(totals.app_states(db), config) or ()
    why_not = claims.why_not(db, story.connection_id, freshness=IF_DUE, keys=keys, lasts=config.pace.lease)
    return explaining.against(story.row, why_not, evidence, pace=config.pace)


def _facts(story: Story, prospect: Prospect | None) -> dict[str, Any]:
    row = None if story.row is None else dataclasses.asdict(story.row)
    ahead: dict[str, Any] = {}
    if prospect is not None:
        ahead = {
            "due_at": prospect.row.due_at,
            "not_before": prospect.row.not_before,
            "why_not_now": prospect.why_not,
            "verdict_at": prospect.verdict_at,
            "against_a_verdict": [str(each) for each in prospect.against],
            "in_words": list(explaining.ahead(prospect)),
        }
    return {
        "connection_id": story.connection_id,
        "connection": row,
        "holds": [dataclasses.asdict(each) for each in story.holds],
        "candidates": [dataclasses.asdict(each) for each in story.candidates],
        "consents": [dataclasses.asdict(each) for each in story.consents],
        "revocations": [dataclasses.asdict(each) for each in story.revocations],
        "events": [dataclasses.asdict(each) for each in story.events],
        "attempts": [dataclasses.asdict(each) for each in story.attempts],
        "attempts_not_shown": story.earlier,
        "story": [{"at": entry.at, "words": entry.words, "facts": entry.facts} for entry in explaining.timeline(story)],
        "ahead": ahead,
    }


def _told(story: Story, prospect: Prospect | None, width: int) -> Iterator[str]:
    yield from _head(story)
    for name, words in explaining.standing(story):
        yield from _wrapped(words, first=f"  {name:{_NAME}}", then=_NAME + 2, width=width)
    yield from ("", "What happened")
    if story.earlier:
        yield f"  ({story.earlier} earlier attempts are not shown; --limit 0 shows all)"
    for entry in explaining.timeline(story):
        yield from _wrapped(entry.words, first=f"  {exactly(entry.at)}  ", then=_WHEN + 2, width=width)
        if entry.facts:
            yield from _wrapped(entry.facts, first=" " * (_WHEN + 2), then=_WHEN + 2, width=width, faint=True)
    if prospect is not None:
        yield from ("", "What comes next")
        for sentence in explaining.ahead(prospect):
            yield from _wrapped(sentence, first="  ", then=4 if sentence.startswith("- ") else 2, width=width)


def _head(story: Story) -> Iterable[str]:
    row = story.row
    if row is None:
        return [
            f"No connection has the id {story.connection_id} any more: it was deleted, or the database was restored.",
            "This is what the ledger has of it.",
        ]
    names = [*row.external_ids, *([f"label {row.label}"] if row.label else [])]
    called = f" ({printable(', '.join(names))})" if names else ""
    return [
        f"Connection {row.id}{called}",
        f"  {row.environment} app {printable(row.client_id)}",
        f"  now it is {exactly(row.at)}; all times are UTC",
    ]


def _wrapped(words: str, *, first: str, then: int, width: int, faint: bool = False) -> list[str]:
    """Break words into lines, the first after `first`, the others indented by `then`."""
    lines = textwrap.wrap(
        printable(words), width=width, initial_indent=first, subsequent_indent=" " * then, break_on_hyphens=False
    )
    return [click.style(line, dim=True) for line in lines] if faint else lines
