"""Whatever a file holds: it is imported whole, or each bad line is named with a reason that shows no value."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from worker.importing.layout import COLUMNS, UnusableFile
from worker.importing.lines import Lines
from worker.importing.load import Importer, Wishes

if TYPE_CHECKING:
    from worker.database import Database
    from worker.settings import Settings

CANARY = "RT1-canary"
tokens = st.integers(0, 5).map(lambda number: f"{CANARY}-{number:02}-made-up-for-a-test")
REALM = "913000777000"
realms = st.integers(0, 5).map(lambda number: f"{REALM}{number}")
texts = st.text(max_size=12) | st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31", "sandbox", "production", "1e9"])
rows = st.fixed_dictionaries(
    {"realm_id": realms | texts, "refresh_token": tokens | texts},
    optional=dict.fromkeys(COLUMNS[2:], texts) | {"reason": texts},
)
json_lines = rows.map(lambda row: json.dumps(row).encode()) | st.binary(max_size=60) | st.sampled_from(
    [b"", b"[]", b"{}", b"null", b'{"realm_id":', b'{"refresh_token": "' + CANARY.encode() + b'"}']
)  # fmt: skip
csv_lines = st.tuples(realms | texts, tokens | texts, texts).map(lambda fields: ",".join(fields).encode()) | st.binary(
    max_size=60
)
files = st.one_of(
    st.lists(json_lines, max_size=6).map(b"\n".join),
    st.lists(csv_lines, max_size=6).map(lambda lines: b"\n".join([b"realm_id,refresh_token,label", *lines])),
    st.binary(max_size=200),
)
wishes = st.builds(Wishes, update=st.booleans(), frozen=st.booleans(), skip_bad=st.booleans(), dry_run=st.booleans())
examples = {} if hypothesis.settings.get_current_profile_name() == "full" else {"max_examples": 60}


def shows_a_value(text: str) -> bool:
    return "canary" in text or REALM in text


def ignore(step: str, *, bytes_read: int, lines_read: int) -> None:
    """Show no progress."""


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], **examples)  # type: ignore[arg-type]  # one keyword
@given(data=files, wish=wishes)
def test_whatever_a_file_holds_is_imported_whole_or_refused_by_line_and_reason(
    database: Database, settings: Settings, data: bytes, wish: Wishes
) -> None:
    def connections() -> int:
        return int(database.execute("SELECT count(*) AS n FROM qbo.connections").one().n)

    importer = Importer(database, settings.keyring(), settings.lookup(), settings.apps(), wish, ignore)
    before, rejected = connections(), io.StringIO()
    try:
        report = importer.run(Lines(io.BytesIO(data)), rejected=rejected)
    except UnusableFile as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert not shows_a_value(refused)
        assert connections() == before
        return
    for number, reason in report.reasons:
        assert 1 <= number <= data.count(b"\n") + data.count(b"\r") + 1
        assert reason
        assert not shows_a_value(reason)
    assert len(report.reasons) == min(report.rejected, 100)
    if report.rejected and not wish.skip_bad:
        assert not report.kept
    assert connections() - before == (report.imported if report.kept else 0)
    if report.kept:
        assert not wish.dry_run
