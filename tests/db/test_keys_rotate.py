from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis

from qbo_refresh import sealing
from qbo_refresh.sealing import Field, Keyring, key_id_of, realm_place
from tests.support.attempts import FORCED, Attempts
from tests.support.seams import Killed, killed, with_seam
from worker.attempt import Source, Trigger
from worker.ending import disconnect, revoke_due
from worker.escrow import RedisEscrow
from worker.exchange import exchange
from worker.refresh import refresh
from worker.resealing import Resealer

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbo_refresh.sealing import Place
    from qbo_refresh.secret import Secret
    from tests.support.commands import Run
    from tests.support.consents import Consents
    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

OLD, NEW = f"old:{sealing.new_key()}", f"new:{sealing.new_key()}"
OTHER = "RT1-002-H0-made-up-for-a-test-1111111111"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """Rows are made with the old key; a test that rotates puts the new one before it."""
    return environment | {"TOKEN_KEYS": OLD}


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    """Run commands with the new key before the old one."""
    monkeypatch.setenv("QBO_TOKEN_KEYS", f"{NEW},{OLD}")
    return run


def key_ids(fleet: Fleet, connection_id: int) -> set[str | None]:
    row = fleet.row(connection_id)
    blobs = (row.refresh_token, row.previous_refresh_token, row.access_token, row.realm_id)
    return {key_id_of(bytes(blob)) for blob in blobs if blob is not None}


def refreshed(one: Attempts, connected: Connected) -> None:
    result = refresh(one.by, connected.id, trigger=Trigger.CLI, freshness=FORCED)
    assert result.outcome == "refreshed", result


def test_everything_is_sealed_anew_and_opens_and_no_version_moves(both: Run, fleet: Fleet, one: Attempts) -> None:
    first, second = fleet.connect(2)
    refreshed(one, first)
    claim = one.claimed(second.id)
    one.keep(claim, OTHER)
    fleet.update(second.id, "lease_id = NULL, leased_until = NULL")
    before = fleet.row(first.id)
    assert key_ids(fleet, first.id) == {"old"}
    status, out, err = both("keys", "rotate", "--json")
    found = json.loads(out)
    assert (status, err, found["connections"], found["candidates"]) == (0, "", 2, 1)
    after = fleet.row(first.id)
    assert key_ids(fleet, first.id) == key_ids(fleet, second.id) == {"new"}
    assert (after.token_version, after.refresh_token_fingerprint) == (
        before.token_version,
        before.refresh_token_fingerprint,
    )
    keyring = Keyring.from_text(NEW)
    assert keyring.open(after.refresh_token, fleet.place(first.id)).reveal() == fleet.state(first).refresh_token
    assert keyring.open(after.previous_refresh_token, fleet.place(first.id)).reveal() == first.refresh_token
    assert keyring.open(after.realm_id, realm_place("sandbox", first.id)).reveal() == first.realm_id
    assert keyring.open(after.access_token, fleet.place(first.id, Field.ACCESS_TOKEN)).reveal()
    (candidate,) = fleet.candidates(second.id)
    assert keyring.open(candidate.refresh_token, fleet.place(second.id)).reveal() == OTHER


def test_a_key_is_removable_when_neither_rows_nor_candidates_nor_the_escrow_need_it(
    both: Run, fleet: Fleet, one: Attempts, redis_url: str
) -> None:
    (connected,) = fleet.connect()
    refreshed(one, connected)  # leaves a copy in the escrow
    found = json.loads(both("keys", "rotate", "--json")[1])
    assert (found["escrow_by_key"], found["removable"]) == ({"old": 1}, [])
    assert "needed by 1 copies in the escrow, which live 30 days at most" in both("keys", "rotate")[1]
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    found = json.loads(both("keys", "rotate", "--json")[1])
    assert (found["connections"], found["removable"]) == (0, ["old"])
    assert "'old': removable" in both("keys", "rotate")[1]


def test_without_redis_no_key_is_called_removable(both: Run, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.connect()
    monkeypatch.setenv("QBO_REDIS_URL", "redis://127.0.0.1:1/0")
    status, out, _ = both("keys", "rotate")
    assert status == 0
    assert "take no key out" in out
    assert json.loads(both("keys", "rotate", "--json")[1])["removable"] == []


def test_an_attempt_under_way_may_bring_the_old_key_back(both: Run, fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    assert "1 attempt is under way" in both("keys", "rotate")[1]
    one.save(claim)
    assert key_ids(fleet, connected.id) >= {"old"}, "the value that it had read became the previous one"
    assert json.loads(both("keys", "rotate", "--json")[1])["removable"] == ["old"]
    assert key_ids(fleet, connected.id) == {"new"}


def test_a_dry_run_writes_nothing(both: Run, fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    status, out, _ = both("keys", "rotate", "--dry-run")
    assert (status, out) == (0, "1 connections and 0 candidates would be sealed with 'new'.\n")
    assert key_ids(fleet, connected.id) == {"old"}


def test_what_does_not_open_is_named_and_left_and_the_others_go_on(both: Run, fleet: Fleet) -> None:
    first, second = fleet.connect(2)
    fleet.update(first.id, "refresh_token = %(blob)s", blob=b"\x01\x04lost" + bytes(60))
    status, out, _ = both("keys", "rotate")
    assert status == 1
    assert f"1 blobs do not open and stay as they are (connections {first.id})" in out
    assert "'lost': 1 blobs need it, and it is not in TOKEN_KEYS" in out
    assert key_ids(fleet, first.id) == {"lost", "new"}
    assert key_ids(fleet, second.id) == {"new"}


class _Meanwhile:
    """A keyring that does something once, between a blob that was read and its place in the row."""

    def __init__(self, keyring: Keyring, work: Callable[[], object]) -> None:
        self._keyring, self._work, self._done = keyring, work, False
        self.key_ids = keyring.key_ids
        self.open = keyring.open

    def seal(self, secret: Secret, place: Place) -> bytes:
        if not self._done:
            self._done = True
            self._work()
        return self._keyring.seal(secret, place)


def rotated(here: Runtime, work: Callable[[], object] = lambda: None) -> Any:
    keyring: Any = _Meanwhile(here.refresher.keyring, work)
    return Resealer(here.db, keyring, RedisEscrow(here.settings.redis()), lambda _: None).run()


@pytest.mark.parametrize("what", ["refresh", "reconnect"])
def test_row_28_what_comes_between_reading_and_writing_keeps_its_token(
    fleet: Fleet, consents: Consents, start_worker: Callable[..., Runtime], what: str
) -> None:
    # Fails without version and grant in `_REPLACE`: seen, the old token is back in the row.
    (connected,) = fleet.connect()
    old, here = start_worker(), start_worker(TOKEN_KEYS=f"{NEW},{OLD}")

    def meanwhile() -> None:
        if what == "refresh":
            refreshed(Attempts(old.refresher), connected)
        else:
            exchange(old.exchanger, consents.accepted(connected.id, connected.realm_id))

    report = rotated(here, meanwhile)
    row = fleet.row(connected.id)
    live = here.refresher.keyring.open(row.refresh_token, fleet.place(connected.id, grant_number=row.grant_number))
    assert live.reveal() == fleet.state(connected).refresh_token
    assert fleet.lookup.fingerprint(live) == row.refresh_token_fingerprint
    assert key_ids(fleet, connected.id) == {"new"}, "a further pass sealed what it had brought"
    assert (report.overtaken, row.token_version, row.grant_number) == (1, 2, 1 if what == "refresh" else 2)


def test_an_attempt_that_claimed_before_the_rotation_saves_after_it(
    fleet: Fleet, one: Attempts, start_worker: Callable[..., Runtime]
) -> None:
    # Fails if a rotation raises the version: the save would lose the comparison.
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    here = start_worker(TOKEN_KEYS=f"{NEW},{OLD}")
    rotated(here)
    assert one.save(claim).value == "saved"


def test_row_28_rotations_amid_refreshes_reconnects_and_an_import_lose_no_token_and_double_no_company(
    both: Run, fleet: Fleet, consents: Consents, start_worker: Callable[..., Runtime], tmp_path: Any
) -> None:
    # Fails without version and grant in `_REPLACE`: seen.
    connected = fleet.connect(30)
    here = start_worker(TOKEN_KEYS=f"{NEW},{OLD}")
    runtimes = [start_worker(TOKEN_KEYS=keys) for keys in (OLD + "," + NEW, f"{NEW},{OLD}")]
    workers = [Attempts(each.refresher) for each in runtimes]
    (tmp_path / "c.jsonl").write_text(
        "".join(f'{{"realm_id": "77{n}", "refresh_token": "RT1-001-H0-made-up-{n:08}"}}\n' for n in range(50))
    )

    def refresh_all(one: Attempts) -> None:
        for _ in range(3):
            for each in connected:
                refresh(one.by, each.id, trigger=Trigger.CLI, freshness=FORCED)

    def reconnect() -> None:
        for number, each in enumerate(connected[:20]):  # by a link to the connection, or under a name that is new
            asked_for: int | str = each.id if number % 2 else f"external:new-{number}"
            authorization_id = consents.accepted(asked_for, each.realm_id)
            ended = exchange(runtimes[number % 4 // 2].exchanger, authorization_id)
            assert (ended.outcome, ended.connection_id) == ("connected", each.id), ended

    with ThreadPoolExecutor(4) as pool:
        running = [*(pool.submit(refresh_all, one) for one in workers), pool.submit(reconnect)]
        rotating = pool.submit(lambda: [rotated(here) for _ in range(10)])
        assert both("import", "c.jsonl")[0] == 0
        rotating.result()
        for ended in running:
            ended.result()
    rotated(here)
    keyring = Keyring.from_text(NEW)
    for each in connected:
        row = fleet.row(each.id)
        place = fleet.place(each.id, grant_number=row.grant_number)
        assert keyring.open(row.refresh_token, place).reveal() == fleet.state(each).refresh_token
    assert {fleet.row(each.id).grant_number for each in connected[:20]} == {2}
    rows = fleet.db.execute("SELECT id, realm_id, realm_hash FROM qbo.connections").all()
    assert len(rows) == 80
    for row in rows:
        realm = keyring.open(row.realm_id, realm_place("sandbox", row.id))
        assert fleet.lookup.realm_hash(realm) == row.realm_hash
    assert all(candidate.source != Source.LATE_SAVE for each in connected for candidate in fleet.candidates(each.id))


def test_consents_on_their_way_and_tokens_to_be_revoked_are_sealed_anew_and_still_work(
    both: Run, fleet: Fleet, consents: Consents, start_worker: Callable[..., Runtime]
) -> None:
    # Fails without OTHERS in `worker.store.resealing`: seen, 'old' is called removable, and the consent is unreadable.
    (ended,) = fleet.connect()
    fleet.simulator.fault("unavailable", endpoint="revoke")
    old = start_worker()
    disconnect(old.ender, ended.id)
    fleet.simulator.clear_faults()
    authorization_id = consents.accepted("external:acme-1")
    found = json.loads(both("keys", "rotate", "--json")[1])
    assert found["consents_and_revocations"] == 3
    assert (found["blobs_by_key"].get("old"), found["removable"]) == (None, ["old"])
    new = start_worker(TOKEN_KEYS=NEW)
    assert exchange(new.exchanger, authorization_id).outcome == "connected"
    fleet.let_pass(timedelta(hours=1))
    assert revoke_due(new.ender) == 1
    assert not fleet.state(ended).alive


def test_a_key_that_only_the_copy_of_a_consent_needs_is_not_removable(
    both: Run, fleet: Fleet, consents: Consents, start_worker: Callable[..., Runtime]
) -> None:
    old = start_worker()
    dying = replace(old.exchanger, refresher=with_seam(old.refresher, "escrow", "put", after=killed))
    authorization_id = consents.accepted("external:acme-1")
    with pytest.raises(Killed):
        exchange(dying, authorization_id)
    found = json.loads(both("keys", "rotate", "--json")[1])
    assert (found["blobs_by_key"].get("old"), found["escrow_by_key"], found["removable"]) == (None, {"old": 1}, [])
    fleet.let_pass(timedelta(seconds=61))
    assert exchange(start_worker(TOKEN_KEYS=f"{NEW},{OLD}").exchanger, authorization_id).outcome == "connected"
