"""The guards of what is sent to Intuit, and of what its answers change."""

from __future__ import annotations

from tests.mutants.guard import Guard

_CLAIMS = "worker/store/claims.py"
_PRESENTING = "worker/refresh/presenting.py"
_TRANSPORT = "worker/intuit/transport.py"
_ANSWERS = "worker/policy/answers.py"


GUARDS = (
    Guard(
        "send: what would keep a new token waiting is done before",
        _PRESENTING,
        "    attempt.make_ready()\n",
        "",
        ("tests/faults/test_crashes.py::test_the_line_to_the_escrow_stands_before_a_token_can_come",),
    ),
    Guard(
        "send: the gate at the first byte",
        _TRANSPORT,
        "        call.before_first_byte()\n",
        "",
        ("tests/faults/test_late.py::test_row_6_a_process_that_was_frozen_does_not_send_into_the_end_of_its_lease",),
    ),
    Guard(
        "send: a close throws away what was not delivered",
        _TRANSPORT,
        "                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)\n",
        "",
        ("tests/faults/test_late.py::test_row_9_what_lies_in_our_kernel_is_not_delivered_after_we_gave_up",),
    ),
    Guard(
        "send: the kernel drops what is not acknowledged in time",
        _TRANSPORT,
        "sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(remaining * 1000)))",
        "pass",
        ("tests/unit/test_transport_options.py",),
    ),
    Guard(
        "send: one deadline for all of it",
        _TRANSPORT,
        "        self._sock.settimeout(max(0.0, left))\n",
        "        self._sock.settimeout(20)\n",
        ("tests/faults/test_late.py::test_row_10_a_byte_now_and_then_does_not_outlive_the_deadline",),
    ),
    Guard(
        "send: redirects are not followed",
        _TRANSPORT,
        "                    retries=False,\n                    redirect=False,\n",
        "                    retries=3,\n                    redirect=True,\n",
        ("tests/faults/test_answers.py::test_row_13_a_redirect_to_the_endpoint_itself_sends_the_token_no_second_time",),
    ),
    Guard(
        "send: the body is capped",
        _TRANSPORT,
        "        while len(received) <= BODY_CAP_BYTES and (",
        "        while len(received) <= 10**9 and (",
        ("tests/faults/test_answers.py::test_row_12_a_huge_answer_takes_no_memory_and_costs_no_token",),
    ),
    Guard(
        "send: what was unpacked is capped",
        _TRANSPORT,
        "unpacker.decompress(body, BODY_CAP_BYTES)",
        "unpacker.decompress(body)",
        ("tests/faults/test_answers.py::test_row_12_a_huge_answer_takes_no_memory_and_costs_no_token",),
    ),
    Guard(
        "send: a socket left idle is not used again",
        _TRANSPORT,
        "return clock.boottime() - self._idle_since < _call.get().idle_limit_s and super().is_connected",
        "return super().is_connected",
        ("tests/unit/test_transport_options.py",),
    ),
    Guard(
        "answer: only a 400 is invalid_grant",
        "worker/intuit/endpoint.py",
        '    if code == "invalid_grant" and status == HTTPStatus.BAD_REQUEST:\n',
        '    if code == "invalid_grant":\n',
        ("tests/unit/test_classify.py",),
    ),
    Guard(
        "answer: what is not known to be unprocessed is in doubt",
        "worker/intuit/endpoint.py",
        "        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNAUTHORIZED if body",
        "        case _ if body",
        ("tests/unit/test_classify.py",),
    ),
    Guard(
        "answer: a body that was cut decides nothing",
        "worker/intuit/endpoint.py",
        "    body = tokens.decode(text) if answer.complete else None\n",
        "    body = tokens.decode(text)\n",
        ("tests/unit/test_classify.py",),
    ),
    Guard(
        "answer: what is salvaged has a plausible length",
        "worker/tokens.py",
        "{20,512}",
        "{20,9000}",
        ("tests/unit/test_tokens.py",),
    ),
    Guard(
        "answer: lifetimes are clamped",
        "worker/tokens.py",
        "    clamped = min(max(access or SHORTEST_ACCESS, SHORTEST_ACCESS), LONGEST_ACCESS)\n",
        "    clamped = access or SHORTEST_ACCESS\n",
        ("tests/unit/test_tokens.py",),
    ),
    Guard(
        "doubt: the lease is kept",
        _ANSWERS,
        "        keep_lease=True,\n",
        "        keep_lease=False,\n",
        ("tests/unit/test_policy.py",),
    ),
    Guard(
        "throttle: bounded",
        "worker/policy/pace.py",
        "    return max(timedelta(seconds=1), min(asked, LONGEST_THROTTLE))\n",
        "    return asked\n",
        ("tests/unit/test_policy.py",),
    ),
    Guard(
        "keys: the previous secret is tried",
        _PRESENTING,
        "    for secret in _secrets(attempt):\n",
        "    for secret in _secrets(attempt)[:1]:\n",
        ("tests/faults/test_refusals.py::test_row_20_the_previous_secret_is_tried_when_the_new_one_is_refused",),
    ),
    Guard(
        "keys: a block is one secret's",
        _CLAIMS,
        "AND b.secret_hash = k.hash AND b.blocked_at IS NOT NULL))\n",
        "AND b.blocked_at IS NOT NULL))\n",
        (
            "tests/db/test_app_blocks.py::test_a_deployment_with_another_secret_is_not_blocked",
            "tests/db/test_app_blocks.py::test_a_worker_with_one_good_secret_of_two_goes_on",
        ),
    ),
    Guard(
        "keys: other codes block after three connections",
        "worker/policy/pace.py",
        "REFUSALS_THAT_BLOCK = 3",
        "REFUSALS_THAT_BLOCK = 1",
        ("tests/db/test_app_blocks.py::test_an_odd_row_alone_blocks_nothing_and_three_do",),
    ),
    Guard(
        "keys: three different connections",
        "worker/store/apps.py",
        "CASE WHEN b.connection_ids @> %(ids)s::bigint[] OR cardinality",
        "CASE WHEN cardinality",
        ("tests/db/test_app_blocks.py::test_an_odd_row_alone_blocks_nothing_and_three_do",),
    ),
    Guard(
        "keys: a description that blames them withholds a verdict",
        _ANSWERS,
        "        case GrantRejected(perhaps_our_keys=False):\n",
        "        case GrantRejected():\n",
        ("tests/unit/test_policy.py",),
    ),
)
