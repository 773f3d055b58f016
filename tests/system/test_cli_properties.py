"""Whatever is typed: an exit status of the contract, and never a traceback."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbo_refresh import sealing
from worker import settings as worker_settings
from worker.cli import COMMANDS, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# These start servers and processes and go on until somebody ends them.
LASTING = {"run", "demo", "simulate"}
words = st.sampled_from(
    [*sorted(set(COMMANDS) - LASTING), "new", "guard", "release", "--json", "--help", "-h", "--version", "--check",
     "--label", "--all", "--limit", "--status", "active", "--max-age", "--freeze", "--sealed", "--wait", "0", "-1",
     "9" * 30, "external:acme", "realm:-", "realm:", "7", "-", "no-such-file", "--update", "--skip-bad", "--rejects",
     "--dry-run", "--offline", "--reason", "--id", "--", "", "--due", "--held", "--format", "csv"]
)  # fmt: skip
more = st.lists(words | st.text(max_size=10).map(lambda word: word.replace("\0", "")), max_size=5)
arguments = st.builds(lambda first, rest: [first, *rest], st.sampled_from(sorted(COMMANDS)), more) | more
examples = {} if hypothesis.settings.get_current_profile_name() == "full" else {"max_examples": 150}
KEYS = {"TOKEN_KEYS": f"k1:{sealing.new_key()}", "LOOKUP_KEY": sealing.new_key()}
APP = {"INTUIT_CLIENT_ID": "made-up", "INTUIT_CLIENT_SECRET": "made-up", "INTUIT_ENVIRONMENT": "sandbox"}
# Port 9 of loopback: nobody answers, at once.
NOWHERE = {"DATABASE_URL": "postgresql://u:canary@127.0.0.1:9/x", "REDIS_URL": "redis://:canary@127.0.0.1:9/0"}
INTUIT = {"INTUIT_TOKEN_URL": "http://127.0.0.1:9/t", "INTUIT_REVOKE_URL": "http://127.0.0.1:9/r"}


@pytest.fixture(params=["nothing", "unreachable", "real"])
def configured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give a process without settings, with servers that do not answer, and with servers that do."""
    values: dict[str, str] = {}
    if request.param == "unreachable":
        values = KEYS | APP | NOWHERE | INTUIT
    elif request.param == "real":
        values = request.getfixturevalue("environment") | INTUIT
    for name, value in values.items():
        monkeypatch.setenv(f"QBO_{name}", value)
    monkeypatch.chdir(tmp_path)
    worker_settings.load.cache_clear()
    yield
    worker_settings.load.cache_clear()


@pytest.mark.usefixtures("configured")
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], **examples)  # type: ignore[arg-type]  # one keyword
@given(typed=arguments, fed=st.binary(max_size=60))
def test_whatever_is_typed_ends_with_a_status_of_the_contract(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str], fed: bytes
) -> None:
    if typed and typed[0] in LASTING:
        typed = [typed[0], "--help"]
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(fed), errors="replace"))
        with pytest.raises(SystemExit) as ended:
            main(typed)
    printed = capsys.readouterr()
    assert ended.value.code in (0, 1, 2, 130), typed
    assert "Traceback" not in printed.err
    assert "canary" not in printed.out + printed.err
    if ended.value.code == 2:
        assert printed.err, "a refusal says why"
