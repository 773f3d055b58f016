from __future__ import annotations

import json

import pytest

from intuit_simulator.faults import Fault
from tests.chaos import plan
from tests.chaos.plan import BEAT, CONFIRM_AFTER_S, LEASE_S, LINES, WORKERS, Aim, Kind, Lane


def test_the_same_seed_makes_the_same_plan_and_another_another() -> None:
    assert plan.make(seed=7, minutes=5).as_json() == plan.make(seed=7, minutes=5).as_json()
    assert plan.make(seed=7, minutes=5).steps != plan.make(seed=8, minutes=5).steps
    assert json.loads(plan.make(seed=7, minutes=1).as_json())["seed"] == 7


@pytest.mark.parametrize("seed", range(20))
def test_five_minutes_hold_what_was_promised(seed: int) -> None:
    counts = plan.make(seed=seed, minutes=5).counts()
    assert counts["kill"] >= 300
    assert counts["freeze"] >= 50
    assert counts["cut"] >= 200
    assert set(counts) == set(Kind), "every kind of harm"


@pytest.mark.parametrize("seed", range(5))
def test_every_step_can_be_carried_out(seed: int) -> None:
    planned = plan.make(seed=seed, minutes=5)
    assert {step.lane for step in planned.steps} == set(Lane)
    for step in planned.steps:
        assert 0 <= step.at_s <= planned.lasts_s
        match step.kind:
            case Kind.KILL:
                assert step.target in range(WORKERS + 1)
            case Kind.FREEZE:
                assert step.target in range(WORKERS)
            case Kind.CUT | Kind.NETWORK:
                assert step.target in LINES
            case Kind.RESTART:
                assert step.target in ("postgres", "valkey")
            case Kind.INTUIT:
                options = {name: value for name, value in step.options.items() if name != "connections"}
                assert Fault.parse({"kind": step.target, "seconds": step.lasts_s, **options})
            case Kind.AIMED:
                assert step.target in list(Aim)
                assert step.lasts_s > LEASE_S
            case Kind.REVOKE | Kind.RECONNECT:
                assert isinstance(step.target, tuple)
                assert set(step.target) <= set(range(planned.connections))


@pytest.mark.parametrize("seed", range(5))
def test_a_frozen_worker_outlives_its_lease_and_is_left_alone_meanwhile(seed: int) -> None:
    planned = plan.make(seed=seed, minutes=5)
    busy_until = dict.fromkeys(range(BEAT + 1), 0.0)
    overlapping = 0
    for step in planned.steps:
        if step.kind in (Kind.KILL, Kind.FREEZE):
            assert isinstance(step.target, int)
            overlapping += step.at_s < busy_until[step.target]
            if step.kind is Kind.FREEZE:
                assert step.lasts_s > LEASE_S
                busy_until[step.target] = step.at_s + step.lasts_s
    assert overlapping == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_provider_lies_for_less_than_a_verdict_takes(seed: int) -> None:
    lies = [step for step in plan.make(seed=seed, minutes=5).steps if step.target == "invalid_grant"]
    assert lies
    assert all(step.lasts_s < CONFIRM_AFTER_S / 2 for step in lies)
    assert any("connections" not in step.options for step in lies), "to everybody, too"


def test_every_kind_of_trouble_comes_within_two_minutes() -> None:
    kinds = {step.target for step in plan.make(seed=1, minutes=2).steps if step.kind is Kind.INTUIT}
    assert kinds == {kind for kind, *_ in plan._TROUBLES} | {"invalid_grant"}  # noqa: SLF001  # its own list
