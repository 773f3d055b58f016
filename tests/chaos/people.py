"""Those who live with the worker: customers who reconnect, an operator, days that pass, callers of the host's."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from sqlalchemy.exc import DBAPIError

import qbo_refresh
from qbo_refresh import QboRefreshError
from tests.support.people import consent
from tests.support.processes import PASSED_ON, ROOT
from worker.database import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.stage import Stage

CALLERS = 2
_CONSENTS_AT_ONCE = 4
# Many times what any of their calls may take.
_CALLER_ENDS_WITHIN_S = 60.0
# A person needs a moment to see the message, and another to try again.
_NOTICED_AFTER_S = 1.0
_AWAY = (DBAPIError, DatabaseUnavailable, OSError)


class People:
    """Threads and processes that go on until they are told to stop."""

    def __init__(self, stage: Stage, *, is_lying: Callable[[], bool], release_guard: Callable[[Stage], bool]) -> None:
        self.counts: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._stage = stage
        self._is_lying = is_lying
        self._release_guard = release_guard
        self._over = threading.Event()
        self.newcomers: dict[str, str] = {}
        """Who connected for the first time, or tries: the host's name → the company."""
        self._names: dict[int, str] = {}
        self._expected: set[str] = set()
        self._wishes: set[int] = set()
        self._busy: set[int | str] = set()
        self._lock = threading.Lock()
        self._consenting = ThreadPoolExecutor(max_workers=_CONSENTS_AT_ONCE)
        self._threads = [
            threading.Thread(target=self._every, args=(seconds, act), daemon=True)
            for seconds, act in (
                (0.5, self._customers),
                (0.5, self._newcomers),
                (0.5, self._operator),
                (1.0, self._a_day),
                (1.0, stage.crew.revive),
            )
        ]
        self._callers: list[subprocess.Popen[str]] = []

    def begin(self) -> None:
        """Start them all."""
        for number in range(CALLERS):
            self._callers.append(self._start_caller(number))
        for thread in self._threads:
            thread.start()

    def quieten(self) -> None:
        """End the callers, and take in what they have met. Customers and operator go on."""
        for caller in self._callers:
            try:
                said, _ = caller.communicate("", timeout=_CALLER_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.surprises.append("a caller hangs in a call")
                continue
            if not said:
                self.surprises.append(f"a caller ended with status {caller.returncode}")
                continue
            met = json.loads(said)
            self.counts.update(met["counts"])
            self.surprises += met["surprises"]

    def end(self) -> None:
        """End everybody."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._consenting.shutdown(wait=True)
        for caller in self._callers:
            if caller.poll() is None:
                caller.kill()
                caller.communicate()

    def wants(self, connection_id: int) -> None:
        """Have the customer of a connection consent again, whatever its state is."""
        with self._lock:
            self._wishes.add(connection_id)

    def arrives(self, name: str) -> None:
        """Have somebody connect for the first time, under this name of the host's, and not give up."""
        with self._lock:
            self._expected.add(name)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is consenting or wishes to."""
        with self._lock:
            return not self._wishes and not self._busy and not self._expected

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        while not self._over.wait(seconds):
            try:
                act()
            except _AWAY:
                self._stage.db.drop_connection()

    def _customers(self) -> None:
        """Have those consent who were told to, and those who wish to."""
        told = self._stage.db.execute(
            "SELECT id FROM qbo.connections WHERE status = 'needs_reauth'"
            " AND needs_reauth_since < now() - make_interval(secs => %(noticed)s)",
            {"noticed": _NOTICED_AFTER_S},
        ).all()
        with self._lock:
            wanted = ({row.id for row in told} | self._wishes) - self._busy
            self._busy |= wanted
            self._wishes -= wanted
        for connection_id in wanted:
            self._consenting.submit(self._consent_again, connection_id)

    def _newcomers(self) -> None:
        """Have those consent who are not connected and whose consent nobody is working on."""
        named = self._stage.db.execute("SELECT external_id, connection_id FROM qbo.external_ids").all()
        connected = {row.external_id for row in named}
        self._names = {row.connection_id: row.external_id for row in named}
        under_way = {
            row.external_id
            for row in self._stage.db.execute(
                "SELECT external_id FROM qbo.authorizations WHERE used_at IS NOT NULL AND finished_at IS NULL"
            )
        }
        with self._lock:
            self._expected -= connected
            wanted = self._expected - under_way - self._busy
            self._busy |= wanted
        for name in wanted:
            self._consenting.submit(self._consent, f"external:{name}", name)

    def _consent_again(self, connection_id: int) -> None:
        self._consent(connection_id, connection_id)

    def _company(self, who: int | str) -> str:
        if isinstance(who, str):
            return self.newcomers.get(who, "")
        known = next((each.realm_id for each in self._stage.connected if each.id == who), None)
        return known or self.newcomers.get(self._names.get(who, ""), "")

    def _consent(self, connection: int | str, who: int | str) -> None:
        session = secrets.token_urlsafe()
        try:
            realm_id = self._company(who)
            # A company whose first code nobody has exchanged has no grant yet.
            self._stage.learn(*([realm_id] if isinstance(who, int) else []))
            link = qbo_refresh.authorize_url(connection, session)
            back = parse_qs(urlsplit(consent(link, realm_id=realm_id)).query)
            if isinstance(who, str):
                self.newcomers[who] = back["realmId"][0]
            qbo_refresh.complete(back["code"][0], back["state"][0], back["realmId"][0], session, timeout=8.0)
        except QboRefreshError as error:
            self.counts[f"{_kind(who)}: {type(error).__name__}"] += 1
        except Exception as error:  # noqa: BLE001  # whatever else a callback raises is a customer's error page
            self.surprises.append(f"a {_kind(who)} met {type(error).__name__}: {error}")
        else:
            self.counts[f"{_kind(who)}s"] += 1
        finally:
            with self._lock:
                self._busy.discard(who)

    def _operator(self) -> None:
        if not self._is_lying() and self._release_guard(self._stage):
            self.counts["guard released"] += 1

    def _a_day(self) -> None:
        """Have a day pass for those whose refresh is some seconds old: nothing else of the schedule is shortened."""
        self._stage.db.execute(
            "UPDATE qbo.connections SET next_refresh_at = now() WHERE status = 'active' AND next_refresh_at > now()"
            " AND last_refreshed_at < now() - interval '6 seconds'"
        )

    def _start_caller(self, number: int) -> subprocess.Popen[str]:
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        ids = json.dumps([each.id for each in self._stage.connected])
        with (self._stage.directory / f"caller-{number}.log").open("w") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.callers", str(number), ids],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    **passed_on,
                    "HOME": str(self._stage.directory),
                    "PYTHONPATH": str(ROOT),
                    **self._stage.host_variables(),
                },
                cwd=self._stage.directory,
                start_new_session=True,
                text=True,
            )
        self._stage.servers.watch(started.pid)
        return started


def _kind(who: int | str) -> str:
    return "consent" if isinstance(who, int) else "first consent"
