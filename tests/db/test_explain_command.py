from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from qbo_refresh.secret import Secret
from tests.support.attempts import FORCED, NEW_TOKEN
from worker.attempt import Trigger
from worker.ending import disconnect
from worker.errors import Facts, GrantRejected, OutcomeUnknown
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.attempts import Attempts
    from tests.support.commands import Run
    from tests.support.consents import Consents
    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

CONFIRMED = timedelta(minutes=16)


def story(run: Run, name: object) -> dict[str, Any]:
    status, out, err = run("explain", str(name), "--json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def a_hard_night(fleet: Fleet, one: Attempts) -> Connected:
    """Let a connection be refreshed, fall into doubt, be refused, and be given up."""
    (connected,) = fleet.connect(label="eu\x1b[31m")
    fleet.db.execute("INSERT INTO qbo.external_ids VALUES ('acme-1', %(id)s)", {"id": connected.id})
    refresh(one.by, connected.id, trigger=Trigger.CLI, freshness=FORCED)
    fleet.let_pass(timedelta(days=1, hours=3))
    one.conclude(one.claimed(connected.id), OutcomeUnknown("unknown", Facts(503, "tid")))
    fleet.let_pass(timedelta(seconds=90))
    one.conclude(one.claimed(connected.id), GrantRejected())
    fleet.let_pass(CONFIRMED)
    one.conclude(one.claimed(connected.id), GrantRejected())
    return connected


def test_a_hard_night_is_told_in_words_on_80_columns(run: Run, fleet: Fleet, one: Attempts) -> None:
    connected = a_hard_night(fleet, one)
    status, out, _ = run("explain", "external:acme-1")
    assert status == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "\x1b[31m" not in out
    told = " ".join(out.split())
    assert f"Connection {connected.id} (acme-1, label eu" in told
    for sentence in (
        "Refreshed, a new refresh token.",
        "Sent, and no usable answer came: the token may be spent.",
        "Intuit refused the grant (answer_lost): suspect.",
        "No verdict was made of it: no other connection of the app has worked since",
        "makes no verdict yet. Against it stands:",
    ):
        assert sentence in told
    fleet.witness()
    fleet.let_pass(CONFIRMED)
    one.conclude(one.claimed(connected.id), GrantRejected())  # the previous token becomes a candidate
    told = " ".join(run("explain", str(connected.id))[1].split())
    assert "1 that may be the live token, not tried yet" in told
    assert "was kept, the one before the row's: not tried yet." in told


def test_it_shows_neither_token_nor_realm_nor_their_hashes(run: Run, fleet: Fleet, one: Attempts) -> None:
    connected = a_hard_night(fleet, one)
    fleet.let_pass(CONFIRMED)
    one.keep(one.claimed(connected.id), NEW_TOKEN)
    out = run("explain", str(connected.id))[1] + run("explain", str(connected.id), "--json")[1]
    row = fleet.row(connected.id)
    secrets = [connected.realm_id, connected.refresh_token, fleet.token(connected.id), NEW_TOKEN]
    secrets += [bytes(each).hex() for each in (row.realm_hash, row.refresh_token_fingerprint)]
    secrets.append(fleet.lookup.fingerprint(Secret(NEW_TOKEN)).hex())
    assert not [secret for secret in secrets if secret in out]


def test_json_has_every_attempt_and_what_comes_next(run: Run, fleet: Fleet, one: Attempts) -> None:
    connected = a_hard_night(fleet, one)
    found = story(run, connected.id)
    assert [each["outcome"] for each in found["attempts"]] == ["refreshed", "deferred", "suspect", "suspect"]
    assert (found["attempts"][0]["rotated"], found["attempts"][0]["http_status"]) == (True, 200)
    assert found["attempts"][3]["withheld"] == "witness"
    assert (found["ahead"]["why_not_now"], found["ahead"]["against_a_verdict"]) == (
        "answer_lost",
        ["witness", "previous"],
    )
    assert found["ahead"]["verdict_at"] > found["connection"]["at"]
    assert found["connection"]["external_ids"] == ["acme-1"]
    assert [hold["reason"] for hold in found["holds"]] == ["suspect"]


def test_it_foretells_what_then_happens(run: Run, fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    one.conclude(one.claimed(connected.id), GrantRejected())
    assert story(run, connected.id)["ahead"]["against_a_verdict"] == ["witness"]
    fleet.witness()
    assert story(run, connected.id)["ahead"]["against_a_verdict"] == []
    fleet.let_pass(CONFIRMED)
    one.conclude(one.claimed(connected.id), GrantRejected())
    assert fleet.row(connected.id).status == "needs_reauth"
    assert "A second chance: it is asked once more at" in story(run, connected.id)["ahead"]["in_words"][0]


def test_the_limit_leaves_older_attempts_out_and_says_so(run: Run, fleet: Fleet, one: Attempts) -> None:
    connected = a_hard_night(fleet, one)
    assert (
        "(2 earlier attempts are not shown; --limit 0 shows all)"
        in run("explain", str(connected.id), "--limit", "2")[1]
    )
    assert "not shown" not in run("explain", str(connected.id), "--limit", "0")[1]


def test_a_ledger_without_its_connection_is_no_error(run: Run, fleet: Fleet, one: Attempts) -> None:
    connected = a_hard_night(fleet, one)
    fleet.db.execute("DELETE FROM qbo.connections WHERE id = %(id)s", {"id": connected.id})
    status, out, _ = run("explain", str(connected.id))
    assert status == 0
    assert out.startswith(f"No connection has the id {connected.id} any more")
    assert "Intuit refused the grant" in out
    assert story(run, connected.id)["connection"] is None
    assert run("explain", "987654")[0] == 2
    assert run("doctor", "--offline")[0] == 0


def test_moments_that_no_clock_shows_are_not_known(run: Run, fleet: Fleet) -> None:
    (connected,) = fleet.connect()
    fleet.update(
        connected.id, "refresh_expires_at = 'infinity', leased_until = 'infinity', lease_id = gen_random_uuid()"
    )
    status, out, _ = run("explain", str(connected.id))
    assert status == 0
    assert "not known (the refresh token" in out


def test_consents_and_revocations_that_wait_are_told_by_explain_status_and_doctor(
    run: Run, fleet: Fleet, consents: Consents, start_worker: Callable[..., Runtime]
) -> None:
    healthy, ended = fleet.connect(2)
    consents.accepted(healthy.id, healthy.realm_id)
    fleet.simulator.fault("unavailable", endpoint="revoke")
    disconnect(start_worker().ender, ended.id)
    assert not any("oldest" in problem for problem in json.loads(run("status", "--json")[1])["problems"])
    fleet.let_pass(timedelta(hours=2))
    status, out, _ = run("status", "--check")
    assert status == 1
    assert "1 consents wait to be exchanged, the oldest for 2 h" in out
    assert "1 tokens of ended connections wait to be revoked, the oldest for 2 h" in out
    out = run("status")[1]
    assert "1 wait, the oldest 2 h ago" in out
    assert "1 not acknowledged by Intuit, the oldest 2 h ago" in out
    doctor = [json.loads(line) for line in run("doctor", "--offline", "--json")[1].splitlines()]
    (waiting,) = (check for check in doctor if check["check"] == "waiting")
    assert waiting["state"] == "wrong"
    assert waiting["text"].startswith("1 consents not exchanged since ")
    assert "its code was not presented yet" in " ".join(run("explain", str(healthy.id))[1].split())
    assert "Intuit has not acknowledged it, 1 tries so far" in " ".join(run("explain", str(ended.id))[1].split())
    assert len(json.loads(run("explain", str(healthy.id), "--json")[1])["consents"]) == 1
