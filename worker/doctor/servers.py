"""Checks of what is elsewhere: Redis, the broker of events, Intuit, clocks, Sentry, the heartbeat."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from redis import Redis, ResponseError

from worker import clock, event_broker, reaching
from worker.doctor.patient import Skipped, Wrong
from worker.intuit import probe
from worker.store import inspection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.doctor.patient import Patient

CLOCKS_APART = timedelta(seconds=5)
CLOCKS_FAR_APART = timedelta(minutes=5)


def redis(patient: Patient) -> str:
    """Check that Redis can be used."""
    url = patient.config.redis()
    trouble = reaching.broker(url)
    if trouble is not None:
        raise Wrong(trouble.sentence)
    with Redis.from_url(url, socket_timeout=reaching.PING_WITHIN_S) as client:
        info = client.info("server")
    name, version = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    return f"{name} {version}"


def eviction(patient: Patient) -> str:
    """Check that Redis never drops a message."""
    trouble = reaching.broker(patient.config.redis())
    if trouble is not None:
        raise Skipped("Redis cannot be used")
    with Redis.from_url(patient.config.redis(), socket_timeout=reaching.PING_WITHIN_S) as client:
        try:
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
        except ResponseError:
            raise Skipped("this Redis does not tell (CONFIG GET is refused): see that it is noeviction") from None
    if policy != "noeviction":
        raise Wrong(f"maxmemory-policy is {policy}: set it to noeviction, or Redis drops messages when it is full.")
    return "maxmemory-policy is noeviction"


def events(patient: Patient) -> str:
    """Check that the broker of the host's events answers. Whether the queue is there is found with the first event."""
    target = patient.config.event_target()
    if target is None:
        raise Skipped("EVENT_TASK is not set: events are left to those who poll")
    if patient.config.event_broker_url is None:
        raise Skipped("EVENT_BROKER_URL is not set: events go to REDIS_URL")
    try:
        kind = event_broker.answers(target)
    except event_broker.BrokerTrouble as error:
        raise Wrong(reaching.event_broker(error, error.reason)) from None
    return f"EVENT_BROKER_URL's broker ({kind}) answers; no event was sent"


def intuit(patient: Patient) -> str:
    """Ask Intuit whether the client ids and secrets are good."""
    endpoint, apps = patient.config.endpoint(), patient.config.apps()
    if patient.offline:
        raise Skipped("--offline")
    good = 0
    wrong: list[str] = []
    for app in apps:
        for name, secret in zip(("INTUIT_CLIENT_SECRET", "INTUIT_CLIENT_SECRET_PREVIOUS"), app.secrets, strict=False):
            verdict = probe.ask(endpoint.token_url, client_id=app.client_id, client_secret=secret)
            if verdict.date is not None:
                patient.intuits_time = (verdict.date, clock.now())
            if not verdict.reached:
                raise Wrong("\n".join([*wrong, verdict.text]))  # once, and nothing of the secret
            if verdict.accepted:
                good += 1
            else:
                wrong.append(f"{name} of {app.client_id} ({app.environment}): {verdict.text}")
    if wrong:
        raise Wrong("\n".join(wrong))
    return f"Intuit takes {'the client id and secret' if good == 1 else f'all {good} client secrets'}"


def clocks(patient: Patient) -> str:
    """Compare the clocks; they decide nothing."""
    differences = {}
    if patient.db is not None:
        before = clock.now()
        there = inspection.now(patient.db)
        differences["PostgreSQL"] = there - (before + (clock.now() - before) / 2)
    if patient.intuits_time is not None:
        differences["Intuit"] = patient.intuits_time[0] - patient.intuits_time[1]
    if not differences:
        raise Skipped("there is no other clock to compare with")
    return compared(differences)


def compared(differences: Mapping[str, timedelta]) -> str:
    """Say how far other clocks are from this machine's.

    Raises:
        Wrong: One is minutes away. No lease, schedule or verdict depends on it; TLS, logs and states do.
    """
    apart = {name: by for name, by in differences.items() if abs(by) > CLOCKS_APART}
    listed = ", ".join(
        f"{name}'s is {abs(round(by.total_seconds()))} s {'ahead' if by > timedelta(0) else 'behind'}"
        for name, by in apart.items()
    )
    if any(abs(by) > CLOCKS_FAR_APART for by in apart.values()):
        others = " and ".join(apart)
        if len(differences) == 1:
            at_fault = f"this machine's clock, or {others}'s,"
        else:
            at_fault = "this machine's clock" if len(apart) == len(differences) else f"the clock of {others}"
        raise Wrong(
            f"Compared with this machine's, {listed}: set {at_fault} right (NTP). Leases, schedules and verdicts do"
            " not depend on it; certificates and the times in logs do."
        )
    return f"compared with this machine's, {listed}; nothing depends on that" if apart else "within 5 s of each other"


def sentry(patient: Patient) -> str:
    """Check that SENTRY_DSN can be read."""
    dsn = patient.config.sentry_dsn
    if dsn is None:
        raise Skipped("SENTRY_DSN is not set")
    from sentry_sdk.utils import BadDsn, Dsn  # noqa: PLC0415  # slow, and not for everybody

    try:
        host = Dsn(dsn.get_secret_value()).host
    except BadDsn:
        raise Wrong("SENTRY_DSN is not a DSN: copy it from the project's Client Keys in Sentry.") from None
    return f"SENTRY_DSN is well-formed (host {host}); nothing was sent"


def heartbeat(patient: Patient) -> str:
    """Say whether a dead beat would be noticed elsewhere."""
    if patient.config.heartbeat_url is None:
        raise Skipped("HEARTBEAT_URL is not set: a dead beat would be noticed by `status --check` alone")
    return "HEARTBEAT_URL is set; it is not asked here, for that would say that a sweep went well"
