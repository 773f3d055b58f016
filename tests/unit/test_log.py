from __future__ import annotations

from typing import TYPE_CHECKING

from worker import log

if TYPE_CHECKING:
    import pytest


def test_what_may_come_by_the_thousand_is_an_error_once_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    seldom = log.Hourly()
    for kind in ("a", "b", "a", "a", "b"):
        seldom.error("it.happened", kind=kind, reason=kind)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", *["WARNING"] * 3]
    assert [record.getMessage() for record in caplog.records][:2] == ["it.happened reason=a", "it.happened reason=b"]
