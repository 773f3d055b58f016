"""A host's process under Sentry's defaults that crashes at each line of the client in turn. Run as a module.

It reads what to call as JSON from standard input, and writes what Sentry would be sent into the file named first, one
envelope after the other with a mark before it. Nothing of ours is changed: a trace function raises.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import sentry_sdk
from celery import Celery
from sentry_sdk.transport import Transport

import qbo_refresh

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from sentry_sdk.envelope import Envelope

MARK = b"\n=== "
_CLIENT = str(Path(qbo_refresh.__file__).parent)
_AT_MOST = 16  # crashes in one fork
_LONGEST_S, _NEXT_S = 20, 2
_NOT_HEARD = 3
_PUT_AWAY = {"session_nonce", "client_keys"}


class Planted(Exception):
    """A crash where nobody expects one."""


class ToFile(Transport):
    """What would go to Sentry goes into a file."""

    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    label = ""
    kept = 0
    within = _CLIENT

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep it."""
        type(self).kept += 1
        with self.file.open("ab") as file:
            file.write(MARK + self.label.encode() + b"\n" + envelope.serialize())


class Hidden:
    """Arguments that stand in no variable."""

    def __init__(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> None:
        self._run = functools.partial(call, *arguments, **more)

    def __call__(self) -> Any:
        """Call with them."""
        return self._run()

    def __repr__(self) -> str:
        return "Hidden(...)"


@functools.cache  # asked at each line
def _put_away_by(code: CodeType) -> float:
    """Return the line on which a function has put its arguments away, or 0. What does that has nothing to fail on."""
    if code.co_qualname in {"Secret.__init__", "_hidden"}:
        return float("inf")
    deleting = (each for each in dis.get_instructions(code) if each.opname == "DELETE_FAST")
    lines = [each.positions.lineno or 0 for each in deleting if each.argval in _PUT_AWAY and each.positions]
    return max(lines, default=0)


def crash_beyond(done: set[str], call: Callable[[], Any]) -> str | None:
    """Call, and crash at the client's first line that is not among these; return it, None if there was none."""
    crashed: str | None = None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal crashed
        code = frame.f_code
        if not code.co_filename.startswith(ToFile.within):
            return None
        line = f"{code.co_filename}:{frame.f_lineno}"
        if event == "line" and crashed is None and line not in done and frame.f_lineno > _put_away_by(code):
            crashed = line
            raise Planted
        return trace

    sys.settrace(trace)
    try:
        call()
    except qbo_refresh.QboRefreshError:
        if crashed is not None:  # and the client has told it as what its caller understands
            sentry_sdk.capture_exception()
    except Planted:
        sentry_sdk.capture_exception()
    finally:
        sys.settrace(None)
    return crashed


def crash_everywhere(label: str, call: Callable[[], Any]) -> int:
    """Crash at each line that a call runs through, and return at how many.

    In forks, as prefork has it: a crash between a `with` and its end leaves a lock behind. One that stands still or
    falls over it is succeeded by a fresh one, and only a fresh one says that there is nothing left.
    """
    ToFile.label = label
    call_once(call)
    done: set[str] = set()
    while lines := _in_a_fork(done, call):
        done |= lines
    return len(done)


def _in_a_fork(done: set[str], call: Callable[[], Any]) -> set[str]:
    reading, writing = os.pipe()
    gc.freeze()  # what is here is the child's too, and a collection would copy each page of it
    child = os.fork()
    if child == 0:
        gc.disable()
        _crash_some(set(done), call, writing)
    os.close(writing)
    with os.fdopen(reading) as file:
        lines = set(file.read().splitlines())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0 and (status == _NOT_HEARD or not lines):
        raise AssertionError(f"{ToFile.label}: after {sorted(lines)} it ended with {status}")
    return lines


def _crash_some(done: set[str], call: Callable[[], Any], writing: int) -> NoReturn:
    status = 1
    try:
        for count in range(1, _AT_MOST + 1):
            signal.alarm(_LONGEST_S if count == 1 else _NEXT_S)
            line = crash_beyond(done, call)
            if line is not None and ToFile.kept != count:  # Sentry has heard of each, and once
                status = _NOT_HEARD
                break
            status = 0
            if line is None:
                break
            done.add(line)
            os.write(writing, f"{line}\n".encode())
    finally:
        os._exit(status)


def call_once(call: Callable[[], Any]) -> None:
    """Have imported what is imported late, and read what Sentry quotes: the forks need not."""
    with contextlib.suppress(qbo_refresh.QboRefreshError):
        call()
    crash_beyond(set(), call)
    ToFile.kept = 0


def control(connection_id: int) -> None:
    """Show that variables are sent: here the caller keeps the token and the company in plain ones."""
    with qbo_refresh.access_token(connection_id) as token:
        mine, company = token.reveal(), token.realm_id.reveal()
        try:
            _fail(mine, company)
        except Planted:
            sentry_sdk.capture_exception()


def _fail(*_: str) -> None:
    raise Planted


def main() -> None:
    """Crash."""
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=ToFile)  # all else as it is by default
    app = Celery("host", broker="memory://")
    connection_id, calls_back = json.load(sys.stdin)
    brought = Hidden(qbo_refresh.complete, *calls_back, timeout=0)
    del calls_back

    @app.task(base=qbo_refresh.SyncTask, name="host.sync", shared=False)
    def sync(connection_id: int) -> None:
        with qbo_refresh.access_token(connection_id) as token:
            assert token.authorization.startswith("Bearer ")
            if ToFile.label == "body":
                raise Planted

    @qbo_refresh.with_access_token
    def fetch(connection_id: int, *, token: qbo_refresh.AccessToken) -> None:
        if ToFile.label == "decorated" and token.version:
            raise qbo_refresh.TokenRejected(connection_id)

    def renewed() -> None:
        with qbo_refresh.access_token(connection_id) as token:
            token.version -= 1
            qbo_refresh.reject(token)

    def to_be_renewed() -> None:
        qbo_refresh.access_token(connection_id, min_ttl=86_400, timeout=0.01)
        qbo_refresh.reject(qbo_refresh.access_token(connection_id), timeout=0.01)

    def link() -> None:
        qbo_refresh.authorize_url(connection_id, "a session's nonce, long enough")

    heard = {
        "access_token": crash_everywhere("access_token", lambda: qbo_refresh.access_token(connection_id)),
        "reject": crash_everywhere("reject", renewed),
        "waiting": crash_everywhere("waiting", to_be_renewed),
        "decorated": crash_everywhere("decorated", lambda: fetch(connection_id)),
        "complete": crash_everywhere("complete", brought),
        "authorize_url": crash_everywhere("authorize_url", link),
        "SyncTask": crash_everywhere("SyncTask", lambda: sync.apply((connection_id,))),
        "configure": crash_everywhere("configure", qbo_refresh.configure),
    }
    # What these two share with the others has crashed above.
    ToFile.within = str(Path(_CLIENT, "ending.py"))
    heard |= {
        "disconnect": crash_everywhere("disconnect", lambda: qbo_refresh.disconnect(connection_id, timeout=0)),
        "disconnect_hint": crash_everywhere("disconnect_hint", lambda: qbo_refresh.disconnect_hint(connection_id)),
    }
    for label, call in (("body", lambda: sync.apply((connection_id,))), ("control", lambda: control(connection_id))):
        ToFile.label, ToFile.kept = label, 0
        call()
        heard[label] = ToFile.kept
    sys.stdout.write(json.dumps(heard))


if __name__ == "__main__":
    main()
