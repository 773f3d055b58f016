import gzip
import json

import pytest

from intuit_simulator.armed import NOTHING, Faults
from intuit_simulator.faults import SHORTHANDS, Fault, Kind
from intuit_simulator.messages import faulty, overridden
from intuit_simulator.wire import gzip_bomb, with_length


def armed(**options: object) -> Faults:
    faults = Faults()
    faults.add(Fault.parse(options), now=100.0)
    return faults


def hits(faults: Faults, times: int, realm: str | None = "1", now: float = 100.0) -> list[bool]:
    return [faults.match("token", realm, now) != NOTHING for _ in range(times)]


def test_a_counted_fault_meets_so_many_calls() -> None:
    assert hits(armed(kind="drop", count=2), 4) == [True, True, False, False]


def test_a_fault_for_realms_meets_no_other_grant_and_no_unknown_token() -> None:
    faults = armed(kind="drop", realms=["1", "2"])
    assert [hits(faults, 1, realm)[0] for realm in ("1", "2", "3", None)] == [True, True, False, False]


def test_a_fault_for_a_while_ends_by_itself() -> None:
    faults = armed(kind="drop", seconds=5)
    assert [hits(faults, 1, now=now)[0] for now in (100.0, 104.9, 105.0)] == [True, True, False]


def test_a_share_is_drawn_from_a_seeded_generator() -> None:
    first, second = (hits(armed(kind="drop", share=0.3, seed=7), 1000) for _ in range(2))
    assert first == second
    assert 250 < sum(first) < 350
    assert hits(armed(kind="drop", share=0.3, seed=8), 1000) != first


def test_a_fault_of_the_token_endpoint_spares_the_revoke_endpoint_unless_it_says_any() -> None:
    assert armed(kind="drop").match("revoke", "1", 100.0) == NOTHING
    assert armed(kind="drop", endpoint="any").match("revoke", "1", 100.0) != NOTHING


def test_a_call_meets_the_oldest_fault_of_each_phase_and_only_that_is_counted() -> None:
    faults = Faults()
    for kind in ("latency", "drop", "invalid_client", "cut"):
        faults.add(Fault.parse({"kind": kind}), now=0.0)
    hit = faults.match("token", None, 0.0)
    assert hit.labels == "latency:f1,drop:f2,cut:f4"
    assert [each.applied for each in faults] == [1, 1, 0, 1]


def test_a_lifted_fault_meets_nothing() -> None:
    faults = armed(kind="drop", id="mine")
    assert faults.remove("mine")
    assert not faults.remove("mine")
    assert hits(faults, 1) == [False]


@pytest.mark.parametrize("name", [*Kind, *SHORTHANDS])
def test_every_kind_needs_no_options_and_survives_json(name: str) -> None:
    fault = Fault.parse({"kind": name})
    assert Fault.parse(json.loads(json.dumps(fault.as_json(), default=list))) == fault


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "nonsense"},
        {"kind": "drop", "colour": "red"},
        {"kind": "drop", "share": 1.5},
        {"kind": "drop", "count": -1},
        {"kind": "drop", "count": 1.5},
        {"kind": "drop", "rotate": "yes"},
        {"kind": "cut", "of": "everything"},
        {"kind": "override", "fields": [1]},
        {},
    ],
)
def test_a_misspelt_fault_is_refused(options: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Fault.parse(options)


def test_a_throttled_answer_carries_any_retry_after() -> None:
    reply = faulty(Fault.parse({"kind": "throttled", "retry_after": "Fri, 31 Dec 9999 23:59:59 GMT"}))
    assert (reply.status, reply.headers) == (429, (("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"),))
    assert json.loads(reply.body)["error"] == "throttled"


def test_a_gateways_page_has_no_transaction_id() -> None:
    assert b"intuit_tid" not in faulty(Fault.parse({"kind": "html"})).head(0, keep_alive=True)
    assert b"intuit_tid" in faulty(Fault.parse({"kind": "invalid_client"})).head(0, keep_alive=True)


def test_an_override_sets_and_removes_fields_of_a_good_answer() -> None:
    fault = Fault.parse({"kind": "override", "fields": {"expires_in": "3600"}, "remove": ["refresh_token"]})
    assert overridden({"refresh_token": "x", "expires_in": 3600, "a": 1}, fault) == {"expires_in": "3600", "a": 1}


def test_a_gzip_bomb_is_small_and_unpacks_to_json_of_the_size_asked_for() -> None:
    bomb = gzip_bomb(b'{"a":1}', 3_000_000)
    unpacked = gzip.decompress(bomb)
    assert len(unpacked) == 3_000_000
    assert json.loads(unpacked) == {"a": 1}
    assert len(bomb) < 10_000


def test_a_heads_length_is_replaced() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\n"
    assert with_length(head, 7, b"C: d\r\n") == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 7\r\nC: d\r\n\r\n"
