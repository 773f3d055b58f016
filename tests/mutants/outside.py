"""The guards against what comes from outside: messages of anybody, keys that are lost, operators in a hurry."""

from __future__ import annotations

from tests.mutants.guard import Guard

_FORGED = "tests/system/test_worker_forged.py"
_BROKER = "tests/db/test_broker.py::"

GUARDS = (
    Guard(
        "messages: one that Celery would stumble over does not get to it",
        "worker/broker.py",
        "(fault := messages.fault(answer[1], now=clock.now()))",
        "(fault := None)",
        (f"{_FORGED}::test_a_message_that_celery_would_stumble_over_is_refused_in_a_line_and_changes_nothing",),
    ),
    Guard(
        "messages: a call with arguments that the task does not take is a line",
        "worker/arguments.py",
        "        if wrong is not None:\n",
        "        if False:\n",
        (f"{_FORGED}::test_a_call_with_arguments_that_a_task_does_not_take_fails_in_a_line_and_changes_nothing",),
    ),
    Guard(
        "messages: an acknowledgement waits for no message to go along with",
        "worker/broker.py",
        "            channel.qos.acknowledge_old()\n",
        "            pass\n",
        (_BROKER + "test_an_acknowledgement_waits_for_no_message",),
    ),
    Guard(
        "unreadable: a lost key is told once, and not for each row",
        "worker/store/unreadable.py",
        "        if row is None or not row.is_new:\n",
        "        if row is None:\n",
        ("tests/db/test_unreadable.py",),
    ),
    Guard(
        "messages: an acknowledgement that did not arrive is brought again",
        "worker/broker.py",
        "                self._done.extend(done)  # once more if they did arrive, which changes nothing\n",
        "",
        (_BROKER + "test_acknowledgements_that_a_lost_connection_did_not_bring_are_brought_when_the_channel_closes",),
    ),
    Guard(
        "messages: what must not come again is acknowledged at once",
        "worker/broker.py",
        "self.channel.belongs_to.cycle.is_looped and may_come_again",
        "self.channel.belongs_to.cycle.is_looped",
        (_BROKER + "test_what_must_not_come_again_is_acknowledged_at_once_with_what_waits",),
    ),
    Guard(
        "messages: a flood of refused ones holds up no other queue",
        "worker/broker.py",
        "            if self.client.refused_from is not None:\n",
        "            if False:\n",
        (_BROKER + "test_refused_messages_do_not_hold_up_another_queue",),
    ),
    Guard(
        "messages: what is undone is no larger than any of ours",
        "worker/messages.py",
        "    if not inflater.eof or inflater.unused_data:\n",
        "    if not inflater.eof:\n",
        ("tests/unit/test_messages.py",),
    ),
    Guard(
        "bringing forward: beside what the sweeps refresh anyway",
        "worker/store/forward.py",
        "        due += others.get(minute, 0)\n",
        "",
        ("tests/db/test_refresh_soon_command.py",),
    ),
)
