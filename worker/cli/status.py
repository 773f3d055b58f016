"""`status`: where the whole fleet stands, and whether it is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker import health, policy, settings
from worker.cli.choosing import open_database
from worker.cli.printing import json_option, plain, print_json, printable
from worker.moments import from_now
from worker.store.control import Identity
from worker.store.totals import EXPIRES_SOON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.health import Health


_IDENTITIES = {
    Identity.SAME: "the one that the control row knows",
    Identity.QUIET: "failed over or restored just now: quiet for one lease",
    Identity.ANOTHER: "ANOTHER one than the control row knows: nothing is sent",
    Identity.NO_CONTROL_ROW: "its control row is MISSING: nothing is sent",
}


@click.command()
@click.option("--check", is_flag=True, help="Print what is wrong, nothing else, and exit with 1 if anything is.")
@json_option
def status(*, check: bool, as_json: bool) -> int:
    """Show where the whole fleet stands. Costs one pass over the connections: about a second for each million."""
    config = settings.load()
    with open_database(config) as db:
        found = health.take(db, config)
    wrong = health.problems(found)
    if as_json:
        print_json({"well": not wrong, "problems": wrong} | ({} if check else _facts(found)))
    elif check:
        click.echo("\n".join(map(printable, wrong)) if wrong else "All is well.")
    else:
        _print_status(found)
        for problem in wrong:
            click.echo(f"! {printable(problem)}")
    return 1 if check and wrong else 0


def _facts(found: Health) -> dict[str, Any]:
    control = found.control
    count = found.count
    return {
        "at": control.at,
        "connections": count(lambda total: total.connections),
        "by_status": found.by_status(),
        "due": count(lambda total: total.due),
        "overdue": count(lambda total: total.overdue),
        "under_lease": count(lambda total: total.leased),
        "in_doubt": count(lambda total: total.in_doubt),
        "frozen": count(lambda total: total.frozen),
        "everything_frozen": control.frozen,
        "database": found.known.identity,
        "database_changed_at": found.known.epoch_since,
        "stalled_since": control.stalled_since,
        "refreshed_with_previous_secret": count(lambda total: total.previous_secret),
        "second_writers": count(lambda total: total.second_writers),
        "impossible_leases": count(lambda total: total.impossible_leases),
        "held": control.held,
        "untried_candidates": control.candidates,
        "consents_waiting": control.consents,
        "oldest_consent": control.consents_since,
        "unacknowledged_revocations": control.revocations,
        "oldest_revocation": control.revocations_since,
        "attempted_last_hour": found.by_outcome(lambda total: total.attempted_hour),
        "attempted_last_day": found.by_outcome(lambda total: total.attempted_day),
        "last_sweep": control.swept_at,
        "oldest_undelivered_event": control.undelivered_since,
        "nearest_refresh_expiry": min((total.expires for total in found.totals if total.expires), default=None),
        "expiring_soon": count(lambda total: total.expiring),
        "hard_expiring_soon": count(lambda total: total.hard_expiring),
        "hard_expiring_soon_inferred": count(lambda total: total.hard_inferred),
        "queues": found.queue_lengths,
        "redis": found.redis_trouble or "ok",
        "apps": list(_app_facts(found)),
    }


def _app_facts(found: Health) -> Iterator[dict[str, Any]]:
    for app in found.apps:
        yield {
            "environment": app.environment,
            "client_id": app.client_id,
            "connections": sum(total.connections for total in found.totals if total.app_id == app.id),
            "keys_here": found.keys is not None and app.id in found.keys,
            "throttled_until": plain(app.throttled_until),
            "guard": "open" if app.guard.is_open else "tripped",
            "guard_tripped_at": plain(app.guard.tripped_at),
            "verdicts_wait_until": plain(policy.waits_until(found.known.epoch_since, app.guard, now=found.known.at)),
            "blocked": [{"reason": block.reason, "since": plain(block.since)} for block in app.blocks],
            "unreadable": [
                {"reason": each.reason, "key_id": each.key_id, "since": plain(each.since)}
                for each in found.shut
                if each.app_id == app.id
            ],
        }


def _print_status(found: Health) -> None:
    facts = _facts(found)
    at = found.control.at
    queued = facts["queues"]
    lines = {
        "connections": f"{facts['connections']:,}{_listed(facts['by_status'])}",
        "due now": f"{facts['due']:,}, overdue {facts['overdue']:,}",
        "under way": f"{facts['under_lease']:,}, in doubt {facts['in_doubt']:,}",
        "frozen": "everything" if facts["everything_frozen"] else f"{facts['frozen']:,}",
        "database": _database(found),
        "syncs held": _listed(facts["held"]).strip(" ()") or "none",
        "candidates": f"{facts['untried_candidates']:,} untried",
        "consents": f"{facts['consents_waiting']:,} wait, the oldest {from_now(facts['oldest_consent'], at)}",
        "revocations": f"{facts['unacknowledged_revocations']:,} not acknowledged by Intuit,"
        f" the oldest {from_now(facts['oldest_revocation'], at)}",
        "last hour": _listed(facts["attempted_last_hour"]).strip(" ()") or "no attempts",
        "last 24 h": _listed(facts["attempted_last_day"]).strip(" ()") or "no attempts",
        "last sweep": from_now(facts["last_sweep"], at) or "never",
        "events": f"oldest undelivered {from_now(facts['oldest_undelivered_event'], at)}"
        if facts["oldest_undelivered_event"]
        else "all delivered",
        "expiries": f"nearest {from_now(facts['nearest_refresh_expiry'], at) or 'unknown'};"
        f" within {EXPIRES_SOON.days} days {facts['expiring_soon']:,}, hard limit {_hard_limits(facts)}",
        "old secret": f"{facts['refreshed_with_previous_secret']:,} refreshed last with another secret than is in use",
        "second writer": f"seen for {facts['second_writers']:,} connections within a week",
        "queues": _listed(queued).strip(" ()") if queued is not None else "unknown",
    }
    for name, number in (
        ("consents", "consents_waiting"),
        ("revocations", "unacknowledged_revocations"),
        ("old secret", "refreshed_with_previous_secret"),
        ("second writer", "second_writers"),
    ):
        if not facts[number]:
            del lines[name]
    for name, text in lines.items():
        click.echo(f"{name:14}{text}")
    for app in facts["apps"]:
        click.echo(f"{'app':14}{_app_line(app)}")


def _hard_limits(facts: Mapping[str, Any]) -> str:
    inferred = facts["hard_expiring_soon_inferred"]
    return f"{facts['hard_expiring_soon']:,}" + (f" ({inferred:,} inferred, not said by Intuit)" if inferred else "")


def _database(found: Health) -> str:
    since = found.known.epoch_since
    changed = f", changed {from_now(since, found.known.at)}" if since else ""
    return _IDENTITIES[found.known.identity] + changed


def _app_line(app: Mapping[str, Any]) -> str:
    parts = [f"{app['environment']} {printable(app['client_id'])}: {app['connections']:,} connections"]
    parts.append("keys here" if app["keys_here"] else "no keys here")
    if app["throttled_until"]:
        parts.append(f"throttled until {app['throttled_until']}")
    if app["guard"] != "open":
        parts.append(f"guard tripped at {app['guard_tripped_at']}")
    if app["verdicts_wait_until"]:
        parts.append(f"verdicts wait until {app['verdicts_wait_until']}")
    parts += [f"a secret blocked since {block['since']} ({block['reason']})" for block in app["blocked"]]
    parts += [f"{_shut(each)} since {each['since']}" for each in app["unreadable"]]
    return ", ".join(parts)


def _shut(episode: Mapping[str, Any]) -> str:
    if episode["key_id"] is None:
        return "values that no key has sealed"
    missing = episode["reason"] == "key_missing"
    return f"the key {episode['key_id']!r} {'missing' if missing else 'does not open what names it'}"


def _listed(numbers: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {number:,}' for name, number in numbers.items())})" if numbers else ""
