from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from qbo_refresh.secret import Secret
from qbo_refresh.status import Outcome
from tests.support.attempts import NEW_TOKEN, Attempts
from tests.support.raw import answering
from tests.support.seams import with_seam
from worker import clock
from worker.attempt import Source, Trigger
from worker.errors import ClientRejected, GrantRejected, OutcomeUnknown
from worker.escrow import RedisEscrow
from worker.intuit import Gate, IntuitEndpoint
from worker.refresh import refresh
from worker.settings import Endpoint
from worker.store import dispatch

if TYPE_CHECKING:
    from tests.support.fleet import Fleet
    from worker.refresh import Refresher

CONFIRMED = timedelta(minutes=16)
MARK = timedelta(minutes=10)


def test_a_candidate_that_comes_while_a_verdict_is_being_made_is_asked_about_first(
    fleet: Fleet, refresher: Refresher
) -> None:
    # Fails without the look under the row's lock in `conclude`.
    one = Attempts(refresher)
    (connected,) = fleet.connect()
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    fleet.let_pass(CONFIRMED)
    claim = one.claimed(connected.id)
    refresher.store.add_candidate(one.received(claim), Source.LATE_SAVE)
    assert one.conclude(claim, GrantRejected())
    row = fleet.row(connected.id)
    assert (row.status, fleet.events(connected.id)) == ("suspect", [])
    fleet.let_pass(CONFIRMED)
    assert one.claimed(connected.id).has_candidates


@pytest.mark.parametrize("status", ["suspect", "needs_reauth"])
def test_a_caller_hears_of_no_verdict_that_a_candidate_has_postponed(
    fleet: Fleet, refresher: Refresher, status: str
) -> None:
    # Fails where the decision is reported instead of what was written, or only first verdicts look for candidates.
    one = Attempts(refresher)
    (connected,) = fleet.connect()
    fleet.simulator.revoke(connected.realm_id)
    fleet.witness()
    fleet.update(None, "last_refreshed_at = now() + interval '1 minute'")
    fleet.update(None, "attempt_began_at = last_refreshed_at")
    for _ in range(2 if status == "needs_reauth" else 1):
        refresh(refresher, connected.id, trigger=Trigger.SWEEP)
        fleet.let_pass(CONFIRMED)
    assert fleet.row(connected.id).status == status
    fleet.update(connected.id, "next_refresh_at = now()")
    claim = one.claimed(connected.id)
    fleet.let_pass(timedelta(minutes=2))
    late = with_seam(
        refresher,
        "store",
        "conclude",
        before=lambda: refresher.store.add_candidate(one.received(claim), Source.LATE_SAVE),
    )
    result = refresh(late, connected.id, trigger=Trigger.SWEEP)
    row = fleet.row(connected.id)
    assert (row.status, result.outcome) == (status, status)
    assert row.due_in <= timedelta(0), "the candidate is asked about first"


def test_an_escrow_that_answers_nonsense_is_not_in_the_way_of_the_save(fleet: Fleet, refresher: Refresher) -> None:
    # Fails where `put` lets anything but a RedisError through.
    (connected,) = fleet.connect()
    with answering(b"$x\r\n:x\r\n") as port:
        escrow = RedisEscrow(f"redis://127.0.0.1:{port}/0?protocol=2")
        result = refresh(replace(refresher, escrow=escrow), connected.id, trigger=Trigger.SWEEP)
    assert result.outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nno colon here\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
        b"",
    ],
)
def test_a_malformed_answer_shows_no_token_in_logs_and_errors(head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    # Fails with urllib3's own warning let through.
    caplog.set_level(logging.DEBUG)
    body = b'{"refresh_token": "' + NEW_TOKEN.encode() + b'"}\r\n\r\n'
    with answering(head + body) as port:
        endpoint = IntuitEndpoint(Endpoint(f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/"))
        gate = Gate(clock.boottime(), *(timedelta(seconds=s) for s in (60, 5, 5)))
        with pytest.raises(OutcomeUnknown) as raised:
            endpoint.refresh(Secret("sent"), client_id="id", client_secret=Secret("secret"), gate=gate)
    assert NEW_TOKEN not in caplog.text
    assert NEW_TOKEN not in str(raised.getrepr(style="long", showlocals=False, chain=True))


def test_an_escrow_that_cannot_be_asked_withholds_the_verdict(fleet: Fleet, refresher: Refresher) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.revoke(connected.realm_id)
    away = replace(refresher, escrow=RedisEscrow("redis://127.0.0.1:1/0"))
    assert refresh(away, connected.id, trigger=Trigger.SWEEP).outcome is Outcome.SUSPECT
    fleet.let_pass(CONFIRMED)
    fleet.witness()
    assert refresh(away, connected.id, trigger=Trigger.SWEEP).outcome is Outcome.SUSPECT
    fleet.witness()
    fleet.let_pass(CONFIRMED)
    assert refresh(refresher, connected.id, trigger=Trigger.SWEEP).outcome is Outcome.NEEDS_REAUTH


def test_a_row_that_is_gone_at_the_save_costs_no_grant(fleet: Fleet, refresher: Refresher) -> None:
    # It may be gone because the database was restored to before it was there.
    (connected,) = fleet.connect()
    forget = lambda: fleet.db.execute("DELETE FROM qbo.connections WHERE id = %(id)s", {"id": connected.id})  # noqa: E731  # a seam
    result = refresh(with_seam(refresher, "store", "save", before=forget), connected.id, trigger=Trigger.SWEEP)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "deleted")
    assert fleet.simulator.state(connected.realm_id).alive
    assert fleet.simulator.check().revocations == 0


def test_after_a_mended_secret_all_go_at_once(fleet: Fleet, refresher: Refresher) -> None:
    one = Attempts(refresher)
    first, *others = fleet.connect(3)
    app_id = first.app_id
    assert len(dispatch.mark_due(fleet.db, app_id=app_id, limit=10, mark=MARK)[0]) == 3
    claim = one.claimed(first.id)
    secret_hash = refresher.secrets[app_id][0].secret_hash
    refresher.store.block(claim, secret_hash=secret_hash, reason="invalid_client", at_once=True)
    assert one.conclude(claim, ClientRejected("invalid_client"))
    assert fleet.row(first.id).failures == 0, "the fault is not the connection's"
    fleet.let_pass(timedelta(minutes=2))
    fleet.update(None, "queued_until = now() + interval '10 minutes'")
    probe = dispatch.mark_probe(fleet.db, app_id=app_id, mark=MARK)
    assert len(probe) == 1, "marked or not"
    assert refresh(refresher, probe[0], trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
    left = {each.id for each in (first, *others)} - set(probe)
    assert set(dispatch.mark_due(fleet.db, app_id=app_id, limit=10, mark=MARK)[0]) == left


def test_an_overtaken_attempt_leaves_no_lease_behind(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher
) -> None:
    (connected,) = fleet.connect()
    first, second = Attempts(refresher), Attempts(second_refresher)
    late = first.claimed(connected.id)
    fleet.let_pass(timedelta(minutes=2))
    taken_over = second.claimed(connected.id)
    first.save(late)
    assert not second.conclude(taken_over, GrantRejected())
    row = fleet.row(connected.id)
    assert (row.lease_id, row.in_doubt) == (None, False)


def test_lifetimes_count_from_the_answer_and_not_from_a_save_that_had_to_wait(
    fleet: Fleet, refresher: Refresher
) -> None:
    (connected,) = fleet.connect()
    waited = timedelta(minutes=30)

    class Late:
        def __getattr__(self, name: str) -> object:
            return getattr(refresher.intuit, name)

        def refresh(self, *args: object, **kwargs: object) -> object:
            tokens = refresher.intuit.refresh(*args, **kwargs)  # type: ignore[arg-type]  # passed through
            at = cast("float", tokens.facts.last_byte_at) - waited.total_seconds()
            return replace(tokens, facts=replace(tokens.facts, last_byte_at=at))

    result = refresh(replace(refresher, intuit=cast("IntuitEndpoint", Late())), connected.id, trigger=Trigger.SWEEP)
    assert result.outcome is Outcome.REFRESHED
    left = fleet.db.execute("SELECT max(access_expires_at) - now() AS left FROM qbo.connections").one().left
    assert timedelta(minutes=29) < left < timedelta(minutes=31)
