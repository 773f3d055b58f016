"""Whether the fleet is well: what the database and Redis say, gathered, and what is wrong with it, in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import redis

from worker import queues, reaching
from worker.moments import long
from worker.settings import Unset
from worker.store import control as control_row
from worker.store import held, unreadable
from worker.store import totals as figures
from worker.store.control import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker.database import Database
    from worker.settings import Settings
    from worker.store.control import Known
    from worker.store.totals import AppState, Control, Total
    from worker.store.unreadable import Episode

UNDELIVERED = timedelta(hours=1)
_REDIS_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Health:
    """Where the fleet stands.

    Attributes:
        known: Which database the control row knows, and which one this is.
        keys: App id → the hashes of the client secrets here, the one in use first; None if the settings have no keys.
        queue_lengths: Messages that wait, by queue; None if Redis is away (`redis_trouble` says why).
        sweep: The time between two sweeps.
        delivers: EVENT_TASK is set: events do not just wait for those who poll.
        shut: What does not open now, by app and key, and operators were told of.
    """

    control: Control
    known: Known
    apps: Sequence[AppState]
    totals: Sequence[Total]
    keys: Mapping[int, tuple[bytes, ...]] | None
    queue_lengths: Mapping[str, int] | None
    redis_trouble: str | None
    sweep: timedelta
    delivers: bool
    shut: Sequence[Episode] = ()

    def count(self, what: Callable[[Total], int]) -> int:
        """Return a number of the totals, over all of them."""
        return sum(map(what, self.totals))

    def by_status(self) -> dict[str, int]:
        """Return how many connections have each status."""
        return _grouped((total.status, total.connections) for total in self.totals)

    def by_outcome(self, attempted: Callable[[Total], int]) -> dict[str, int]:
        """Return how many connections were attempted, by what came of it."""
        return _grouped((total.last_outcome or "none", attempted(total)) for total in self.totals)


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    groups: dict[str, int] = {}
    for name, number in pairs:
        if number:
            groups[name] = groups.get(name, 0) + number
    return dict(sorted(groups.items(), key=lambda group: -group[1]))


def take(db: Database, config: Settings) -> Health:
    """Gather it: one pass over the connections, a few small statements, one round trip to Redis, which may be away.

    Raises:
        SettingsError, BadKeys: A setting that says where Redis is, or which keys are here, is malformed.
    """
    try:
        lengths, trouble = queue_lengths(config)
    except Unset as error:
        lengths, trouble = None, str(error)
    apps = figures.app_states(db)
    held_here = held.secrets(apps, config)
    return Health(
        control=figures.control(db),
        known=control_row.look(db, lease=config.pace.lease),
        apps=apps,
        totals=figures.totals(db, held_here or ()),
        keys=None if held_here is None else {each.app_id: each.secret_hashes for each in held_here},
        queue_lengths=lengths,
        redis_trouble=trouble,
        sweep=timedelta(seconds=config.sweep_seconds),
        delivers=config.event_task is not None,
        shut=unreadable.episodes(db),
    )


def queue_lengths(config: Settings) -> tuple[dict[str, int] | None, str | None]:
    """Return how many messages wait in each queue, or None and why Redis cannot be asked.

    Raises:
        SettingsError: REDIS_URL is malformed, or missing (Unset).
    """
    client = redis.Redis.from_url(
        config.redis(), socket_timeout=_REDIS_WITHIN_S, socket_connect_timeout=_REDIS_WITHIN_S
    )
    try:
        with client.pipeline(transaction=False) as pipe:
            for name in queues.ALL:
                pipe.llen(name)
            return dict(zip(queues.ALL, pipe.execute(), strict=True)), None
    except redis.RedisError as error:
        return None, reaching.redis_trouble(error).sentence
    finally:
        client.close()


def problems(health: Health) -> list[str]:
    """Say what is wrong, each in a sentence that names the mend; nothing if all is well."""
    return [
        *_control_problems(health),
        *_app_problems(health),
        *_row_problems(health),
        *([health.redis_trouble] if health.redis_trouble else []),
    ]


_UNFIT = {
    Identity.ANOTHER: (
        "This is another PostgreSQL cluster than the one that these rows were refreshed in: nothing is sent. If it is"
        " meant to send, and the old one never will again: `qbo-refresh adopt-database`."
    ),
    Identity.NO_CONTROL_ROW: (
        "The row of the table control is missing: nothing is sent. If this database is the one that sends:"
        " `qbo-refresh adopt-database`."
    ),
}


def _control_problems(health: Health) -> Iterable[str]:
    control = health.control
    if health.known.identity in _UNFIT:
        yield _UNFIT[health.known.identity]
    if control.frozen:
        yield f"Everything is frozen ({control.frozen_reason or 'no reason given'}): `qbo-refresh thaw --all` ends it."
    waiting = control.at - control.undelivered_since if control.undelivered_since and health.delivers else timedelta(0)
    if waiting > UNDELIVERED:
        yield (
            f"Events have been waiting for delivery for {long(waiting)}: is EVENT_BROKER_URL's broker running,"
            " and a worker for qbo.events? `qbo-refresh events --undelivered` shows them."
        )
    if control.consents_since and (waiting := control.at - control.consents_since) > figures.UNEXCHANGED:
        yield (
            f"{control.consents} consents wait to be exchanged, the oldest for {long(waiting)}: do workers run, and"
            " can they reach Intuit, QuickBooks' API and Redis?"
        )
    if control.revocations_since and (waiting := control.at - control.revocations_since) > figures.UNREVOKED:
        yield (
            f"{control.revocations} tokens of ended connections wait to be revoked, the oldest for {long(waiting)}:"
            " Intuit has not acknowledged it; the sweep asks again, and `qbo-refresh app` shows whether a secret is"
            " refused."
        )
    if control.stalled_since is not None:
        since = control.at - control.stalled_since
        yield f"Due connections have not been refreshed for {long(since)}: are beat and enough workers running?"


def _app_problems(health: Health) -> Iterable[str]:
    for app in health.apps:
        name = f"the {app.environment} app {app.client_id}"
        if app.guard.tripped_at is not None and not app.guard.is_open:
            since = long(health.control.at - app.guard.tripped_at)
            yield (
                f"Intuit refused too many connections of {name} at once, {since} ago: verdicts wait;"
                " `qbo-refresh guard` tells whose."
            )
        mine = None if health.keys is None else health.keys.get(app.id)
        waiting = sum(total.waiting for total in health.totals if total.app_id == app.id)
        if health.keys is not None and mine is None and waiting:
            yield (
                f"{waiting} connections belong to {name}, whose keys are not in this configuration:"
                " add it to INTUIT_APPS."
            )
        yield from _sweep_problems(health, app)
        # Behind a current one that works the previous one is never tried again, and is no problem: it has retired.
        needed = mine if mine and {block.secret_hash for block in app.blocks}.issuperset(mine) else mine and mine[:1]
        for block in app.blocks:
            if needed is None or block.secret_hash in needed:
                since = long(health.control.at - block.since)
                yield (
                    f"Intuit has refused a client secret of {name} for {since} ({block.reason}): correct it;"
                    " one connection with each sweep tries it again."
                )


def _sweep_problems(health: Health, app: AppState) -> Iterable[str]:
    if health.control.frozen or not any(total.due for total in health.totals if total.app_id == app.id):
        return
    if app.swept_at is None:
        yield "Connections are due and no sweep has ever run: start `celery -A worker.app beat` and a worker."
    elif (since := health.control.at - app.swept_at) > figures.SWEEPS_MISSED * health.sweep:
        yield f"Connections are due and the last sweep was {long(since)} ago: are beat and a worker running?"


def _row_problems(health: Health) -> Iterable[str]:
    if overdue := health.count(lambda total: total.overdue):
        yield (
            f"{overdue} connections are overdue: more than {long(figures.LATE)} late, or not refreshed for more"
            f" than {long(figures.STALE)}."
        )
    if shut := sum(total.connections for total in health.totals if total.last_outcome == "unreadable"):
        yield f"{shut} connections do not open with TOKEN_KEYS: `qbo-refresh doctor` names the missing key."
    if impossible := health.count(lambda total: total.impossible_leases):
        yield (
            f"{impossible} leases end later than any can: a sweep lets each end once its connection is an hour late"
            " (or somebody stepped PostgreSQL's clock back)."
        )
    if writers := health.count(lambda total: total.second_writers):
        yield (
            f"Somebody else refreshes {writers} of these grants, too: stop the old system, or the copy;"
            " `qbo-refresh list --second-writer` names them."
        )
    if expiring := health.count(lambda total: total.expiring):
        yield f"{expiring} grants expire within {figures.EXPIRES_SOON.days} days unless they are refreshed."
