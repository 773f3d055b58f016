"""Carries out a plan: a thread for each lane, each step at its time, written down as it happens."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import redis

from tests.chaos.aimed import Aimed
from tests.chaos.history import Revoked, Span
from tests.chaos.plan import Kind, Lane
from tests.support.processes import ROOT
from tests.support.proxy import CLEAR, Way
from worker.store import guards

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.people import People
    from tests.chaos.plan import Plan, Step
    from tests.chaos.stage import Stage
    from tests.support.fleet import Connected

# Intuit's side of a new secret: both are valid for so long.
_BOTH_SECRETS_S = 3.0
_COMMAND_WITHIN_S = 40.0
_RESTARTS_WITHIN = timedelta(seconds=10)


class Nemesis:
    """Harms a stage as planned."""

    def __init__(self, plan: Plan, stage: Stage, people: People) -> None:
        self.plan = plan
        self.spans: list[Span] = []
        self.revoked: list[Revoked] = []
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self.lies_until = 0.0
        self._stage = stage
        self._people = people
        self._began = 0.0
        self._numbers = iter(range(1, 1_000_000))
        self._threads: list[threading.Thread] = []
        self._timers = ThreadPoolExecutor(max_workers=32)
        self._over = threading.Event()
        self._aimed = Aimed(stage, after=self._after, note=self._note, faults=self.faults)

    def begin(self) -> None:
        """Start all lanes."""
        self._began = time.monotonic()
        for lane in Lane:
            steps = [step for step in self.plan.steps if step.lane is lane]
            thread = threading.Thread(target=self._run, args=(steps,), name=lane, daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        """Wait for the end of the plan, then mend everything that is still broken."""
        for thread in self._threads:
            thread.join()
        self._over.set()
        self._timers.shutdown(wait=True)
        stage = self._stage
        stage.crew.thaw_all()
        for line in stage.lines.values():
            line.heal()
        stage.simulator.clear_faults()
        stage.servers.start_postgres()
        stage.servers.start_valkey()

    @property
    def is_lying(self) -> bool:
        """Whether the provider calls living grants dead, or did a moment ago."""
        return time.monotonic() < self.lies_until + 2.0

    def _run(self, steps: list[Step]) -> None:
        for step in steps:
            time.sleep(max(0.0, self._began + step.at_s - time.monotonic()))
            if time.monotonic() > self._began + self.plan.lasts_s:
                return  # a machine that is too slow for all of it: what was done is counted
            try:
                self._do(step)
            except Exception as error:  # noqa: BLE001  # a nemesis that stumbles is reported, and goes on
                self.problems.append(f"{step.kind} {step.target} at {step.at_s} s: {type(error).__name__}: {error}")
                self._stage.db.drop_connection()
            else:
                self.done[step.kind] += 1

    def _do(self, step: Step) -> None:
        people = self._people
        acts: dict[Kind, Callable[[Step], None]] = {
            Kind.KILL: self._kill,
            Kind.FREEZE: self._freeze,
            Kind.CUT: self._cut,
            Kind.NETWORK: self._harm_line,
            Kind.AIMED: self._aimed.do,
            Kind.FLUSH: self._flush,
            Kind.RESTART: self._restart,
            Kind.INTUIT: self._harm_intuit,
            Kind.POLICY: self._set_policy,
            Kind.REVOKE: self._revoke,
            Kind.RECONNECT: self._reconnect,
            Kind.ARRIVE: lambda step: people.arrives(str(step.target)),
            Kind.KEYS: self._rotate_keys,
            Kind.SECRET: self._rotate_secret,
        }
        acts[step.kind](step)

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        """Do something later, at the end of the plan at the latest."""
        ends = min(time.monotonic() + seconds, self._began + self.plan.lasts_s)

        def wait() -> None:
            time.sleep(max(0.0, ends - time.monotonic()))
            try:
                act()
            except Exception as error:  # noqa: BLE001  # as above: what is not mended now is mended at the end
                self.problems.append(f"mending: {type(error).__name__}: {error}")

        self._timers.submit(wait)

    def _note(self, where: str, what: str, began: float) -> None:
        self.spans.append(Span(where, what, began, time.monotonic()))

    # Processes.

    def _kill(self, step: Step) -> None:
        self._stage.crew.kill(_number(step))

    def _freeze(self, step: Step) -> None:
        slot, killed = _number(step), bool(step.options["killed"])
        pid = self._stage.crew.freeze(slot)
        if pid is not None:
            self._after(step.lasts_s, lambda: self._stage.crew.thaw(slot, pid, killed=killed))

    # Lines.

    def _cut(self, step: Step) -> None:
        began = time.monotonic()
        how = step.options["how"]
        self.faults[f"{step.target} cut ({how})"] += self._stage.lines[str(step.target)].cut(how)
        self._note(str(step.target), f"cut {how}", began)

    def _harm_line(self, step: Step) -> None:
        line, name, began = self._stage.lines[str(step.target)], str(step.target), time.monotonic()
        options = dict(step.options)
        way, refused = options.pop("way"), options.pop("refused", False)
        if refused:
            line.refuse()
        else:
            line.set(**{way: Way(**options), ("down" if way == "up" else "up"): CLEAR})
        what = "refused" if refused else next(iter(options))
        self.faults[f"{name} {what}"] += 1

        def heal() -> None:
            line.heal()
            self._note(name, what, began)

        self._after(step.lasts_s, heal)

    # Servers.

    def _flush(self, _: Step) -> None:
        began = time.monotonic()
        with redis.Redis.from_url(self._stage.servers.redis_url) as client:
            client.flushall()
        self.faults["valkey flushed"] += 1
        self._note("valkey", "flush", began)

    def _restart(self, step: Step) -> None:
        servers, name, how, began = self._stage.servers, str(step.target), step.options["how"], time.monotonic()
        getattr(servers, f"{how}_{name}")()
        time.sleep(step.lasts_s)
        getattr(servers, f"start_{name}")()
        self.faults[f"{name} {'killed' if how == 'kill' else 'stopped'} and started"] += 1
        self._note(name, how, began)

    # Intuit.

    def _harm_intuit(self, step: Step) -> None:
        options, simulator = dict(step.options), self._stage.simulator
        name = "lie" if step.target == "invalid_grant" else str(step.target)
        if options.get("rotate"):
            name += " after rotating"
        if step.target == "gzip" and "size" in options:
            name = "bomb"
        if name == "lie":
            options["realm_ids"] = self._may_be_lied_about(options.pop("connections", None))
            self.lies_until = time.monotonic() + step.lasts_s
        simulator.fault(str(step.target), id=f"{name}-{next(self._numbers)}", seconds=step.lasts_s, **options)

    def _may_be_lied_about(self, numbers: Any) -> list[str]:
        """Return whom to refuse: none that stands refused already. Two refusals so far apart are a dead grant's."""
        all_of = self._stage.connected
        chosen = all_of if numbers is None else [all_of[number] for number in numbers]
        db = self._stage.db
        rows = db.patiently(
            lambda: db.execute("SELECT id FROM qbo.connections WHERE suspect_since IS NOT NULL").all(),
            patience=_RESTARTS_WITHIN,
        )
        refused = {row.id for row in rows}
        return [each.realm_id for each in chosen if each.id not in refused] or ["nobody"]

    def _set_policy(self, step: Step) -> None:
        name, now = str(step.target), time.monotonic()
        self._stage.simulator.set_policy(name)
        for number, span in enumerate(self.spans):
            if span.where == "policy" and span.ended == float("inf"):
                self.spans[number] = dataclasses.replace(span, ended=now)
        self.spans.append(Span("policy", name, now, float("inf")))

    # People.

    def _revoke(self, step: Step) -> None:
        for connected in self._those(step):
            self._stage.learn(connected.realm_id)
            self._stage.simulator.revoke(connected.realm_id)
            self.revoked.append(Revoked(time.monotonic(), connected.id))

    def _reconnect(self, step: Step) -> None:
        for connected in self._those(step):
            self._people.wants(connected.id)

    def _those(self, step: Step) -> list[Connected]:
        assert isinstance(step.target, tuple)
        return [self._stage.connected[number] for number in step.target]

    # Keys.

    def _rotate_keys(self, step: Step) -> None:
        """Bring a new key in: known everywhere first, then the first everywhere, then everything sealed with it."""
        crew, old = self._stage.crew, self._stage.variables["TOKEN_KEYS"]
        new = self._stage.future_keys[_number(step) - 1]
        crew.configure({"TOKEN_KEYS": f"{old},{new}"})
        self._stage.variables["TOKEN_KEYS"] = f"{new},{old}"
        crew.configure({"TOKEN_KEYS": f"{new},{old}"})
        if self._run_command("keys", "rotate"):
            self.faults["keys rotated"] += 1

    def _rotate_secret(self, step: Step) -> None:
        """Bring a new client secret in; a hasty one is refused until all have it."""
        hasty = bool(step.options["hasty"])
        simulator, crew = self._stage.simulator, self._stage.crew
        old, new = self._stage.variables["INTUIT_CLIENT_SECRET"], self._stage.new_secret()
        simulator.set_secrets(*([new] if hasty else [new, old]))
        self._stage.variables["INTUIT_CLIENT_SECRET"] = new
        crew.configure({"INTUIT_CLIENT_SECRET": new, "INTUIT_CLIENT_SECRET_PREVIOUS": old})
        time.sleep(0 if hasty else _BOTH_SECRETS_S)
        simulator.set_secrets(new)
        self.faults["client secret rotated" + (", hastily" if hasty else "")] += 1

    def _run_command(self, *arguments: str) -> bool:
        """Run `qbo-refresh …` as an operator does: again, if a server was away."""
        variables = self._stage.variables
        give_up = time.monotonic() + _COMMAND_WITHIN_S
        while (left := give_up - time.monotonic()) > 0:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "worker.cli", *arguments],
                    env={**variables, "PYTHONPATH": str(ROOT), "HOME": str(self._stage.directory)},
                    cwd=self._stage.directory,
                    capture_output=True,
                    text=True,
                    timeout=left,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return False  # on a busy machine; what was rotated is counted
            with (self._stage.directory / "commands.log").open("a") as log:
                log.write(done.stdout + done.stderr)
            if done.returncode == 0:
                return True
        return False


def _number(step: Step) -> int:
    assert isinstance(step.target, int)
    return step.target


def release_guard(stage: Stage) -> bool:
    """Let verdicts go, as an operator does who has looked; False if nothing stood against them."""
    tripped = stage.db.execute(
        "SELECT FROM qbo.apps WHERE guard_tripped_at IS NOT NULL"
        " AND (guard_released_at IS NULL OR guard_released_at < guard_tripped_at)"
        " AND guard_tripped_at < now() - interval '2 seconds'"
    ).all()
    if tripped:
        guards.release(stage.db, [stage.app_id], reason="looked")
    return bool(tripped)
