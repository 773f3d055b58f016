from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from worker.cli.table import Column, Layout, fitted

COLUMNS = (
    Column("id", right=True),
    Column("name", folds=True),
    Column("status"),
    Column("last", 1, folds=True),
    Column("limit", 2),
)
ROW = ("7", "Acme Ltd of Nowhere", "needs_reauth", "refreshed (disconnected)", "in 5.0 years")


def shown(layout: Layout, *rows: tuple[str, ...]) -> list[str]:
    return [*layout.header(), *(line for row in rows for line in layout.lines(row)), *layout.footer()]


def test_where_there_is_room_each_row_is_a_line() -> None:
    assert shown(fitted(COLUMNS, [ROW], width=120), ROW) == [
        "id  name                 status        last                      limit",
        " 7  Acme Ltd of Nowhere  needs_reauth  refreshed (disconnected)  in 5.0 years",
    ]


def test_what_has_several_words_goes_on_below_before_anything_is_left_out() -> None:
    assert shown(fitted(COLUMNS, [ROW], width=59), ROW) == [
        "id  name         status        last            limit",
        " 7  Acme Ltd of  needs_reauth  refreshed       in 5.0 years",
        "    Nowhere                    (disconnected)",
    ]


def test_what_matters_least_is_left_out_before_a_word_is_broken() -> None:
    assert shown(fitted(COLUMNS, [ROW], width=45), ROW) == [
        "id  name         status        last",
        " 7  Acme Ltd of  needs_reauth  refreshed",
        "    Nowhere                    (disconnected)",
        "Too narrow here for: limit (--json has them).",
    ]
    assert shown(fitted(COLUMNS, [ROW], width=30), ROW) == [
        "id  name          status",
        " 7  Acme Ltd of   needs_reauth",
        "    Nowhere",
        "Too narrow here for: last, limit (--json has them).",
    ]


def test_a_character_that_takes_two_cells_counts_as_two() -> None:
    columns = [Column("name", folds=True), Column("status")]
    rows = [("日本 株式会社", "active"), ("x", "active")]
    assert shown(fitted(columns, rows, width=18), *rows) == [
        "name        status",
        "日本        active",
        "株式会社",
        "x           active",
    ]


@given(
    st.lists(st.tuples(*[st.text(st.characters(min_codepoint=32, max_codepoint=0x3100), max_size=60)] * 5), max_size=5),
    st.integers(60, 140),
)
def test_no_line_is_wider_than_the_screen_and_no_character_is_lost(rows: list[tuple[str, ...]], width: int) -> None:
    fixed = [(row[0][:3], row[1], "active", row[3], row[4][:6]) for row in rows]
    layout = fitted(COLUMNS, fixed, width=width)
    for row in fixed:
        lines = list(layout.lines(row))
        assert max(map(cell_len, lines)) <= width
        assert not Counter("".join(row[1].split())) - Counter("".join(lines))
