from __future__ import annotations

import io

import pytest

from worker.importing.layout import COLUMNS, BadLine, Format, Layout, UnusableFile, layout_of
from worker.importing.lines import LONGEST_LINE, Line, Lines

TOKEN = "RT1-123-H0-made-up-for-a-test"
CSV = Layout(Format.CSV, ("realm_id", "refresh_token", "label"))
JSON = Layout(Format.JSON_LINES)


def read(data: bytes) -> list[Line]:
    return list(Lines(io.BytesIO(data)))


def line(text: str | bytes, *, number: int = 7) -> Line:
    return Line(number, text if isinstance(text, bytes) else text.encode())


def reasons(layout: Layout, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(BadLine) as caught:
        layout.values(line(text))
    return caught.value.reasons


def test_lines_are_numbered_as_in_an_editor_and_blank_ones_left_out() -> None:
    assert [(each.number, each.raw) for each in read(b"a\r\n\n  \nb\nc")] == [(1, b"a"), (4, b"b"), (5, b"c")]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert read(b"\xef\xbb\xbfa\n")[0].raw == b"a"


def test_a_line_of_64_kib_is_read_and_a_longer_one_is_cut_and_skipped() -> None:
    data = b"x" * (LONGEST_LINE - 1) + b"\n" + b"y" * (3 * LONGEST_LINE) + b"\nz\n"
    lines = Lines(io.BytesIO(data))
    assert [(each.number, len(each.raw), each.too_long) for each in lines] == [
        (1, LONGEST_LINE - 1, False),
        (2, LONGEST_LINE, True),
        (3, 1, False),
    ]
    assert lines.bytes_read == len(data)


def test_what_cannot_be_read_twice_is_read_again_from_its_copy() -> None:
    lines = Lines(io.BytesIO(b"a\nb\n"), spool=io.BytesIO())
    assert [each.raw for each in lines] == [each.raw for each in lines.again()] == [b"a", b"b"]


def test_a_line_shows_nothing_of_itself() -> None:
    assert TOKEN not in repr(line(TOKEN))


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("realm_id,refresh_token", Layout(Format.CSV, ("realm_id", "refresh_token"))),
        (" Realm_ID ; refresh_token", Layout(Format.CSV, ("realm_id", "refresh_token"), ";")),
        ("refresh_token\trealm_id", Layout(Format.CSV, ("refresh_token", "realm_id"), "\t")),
        ('"realm_id","refresh_token","reason"', Layout(Format.CSV, ("realm_id", "refresh_token", "reason"))),
        (",".join(COLUMNS), Layout(Format.CSV, COLUMNS)),
        ('  {"realm_id": "1"}', JSON),
    ],
)
def test_the_first_line_tells_the_layout(first: str, expected: Layout) -> None:
    assert layout_of(line(first), None) == expected


def test_a_chosen_format_is_not_guessed() -> None:
    assert layout_of(line("realm_id,refresh_token"), Format.JSON_LINES) == JSON


@pytest.mark.parametrize(
    "first",
    [
        b"\x1f\x8b\x08",
        b"PK\x03\x04",
        b"\xff\xfer\x00",
        b"\xfe\xff\x00r",
        b'[{"realm_id": "1"}]',
        b"realm_id,refresh_token,caf\xe9",
    ],
    ids=["gzip", "zip", "utf-16-le", "utf-16-be", "json array", "latin-1"],
)
def test_what_is_no_text_or_has_no_lines_is_refused_as_a_whole(first: bytes) -> None:
    with pytest.raises(UnusableFile):
        layout_of(line(first), None)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("realm_id,refresh_token,colour", "unknown column 'colour'"),
        ("realm_id,refresh_token,realm_id", "the header has a column twice"),
        ("realm_id,label", "this is no header"),
    ],
)
def test_a_wrong_header_is_named(first: str, reason: str) -> None:
    with pytest.raises(BadLine, match=reason):
        layout_of(line(first), None)


def test_a_file_without_a_header_shows_no_token() -> None:
    with pytest.raises(BadLine) as caught:
        layout_of(line(f"91300001,{TOKEN}"), None)
    assert TOKEN not in str(caught.value)
    assert "91300001" not in str(caught.value)


def test_values_are_trimmed_and_empty_ones_absent() -> None:
    assert CSV.values(line(f' 91 ,"{TOKEN}", ')) == {"realm_id": "91", "refresh_token": TOKEN}
    assert JSON.values(line('{"realm_id": 91, "refresh_token": " t ", "label": null, "external_id": ""}')) == {
        "realm_id": "91",
        "refresh_token": "t",
    }


def test_the_reason_column_of_a_file_of_rejects_is_ignored() -> None:
    assert JSON.values(line('{"realm_id": "9", "reason": "line 3: was bad"}')) == {"realm_id": "9"}
    layout = Layout(Format.CSV, ("realm_id", "reason"))
    assert layout.values(line("9,line 3: was bad")) == {"realm_id": "9"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("91,t", "the number of fields is 2, the header's is 3"),
        ('91,"t,x', "the line's quotes do not match"),
        (b"91,t,caf\xe9", r"the line is not UTF-8 \(byte 9\)"),
        ("91,a\x00b,x", "refresh_token has a control character in it"),
        ("91,t,a\x1b[31m", "label has a control character in it"),
        ("91,t,a\N{RIGHT-TO-LEFT OVERRIDE}b", "label has a control character in it"),
        ("91,t\rx,y", "control character"),
    ],
)
def test_a_bad_csv_line_is_refused_with_its_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(BadLine, match=reason):
        CSV.values(line(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"realm_id": "9"', "the line is not JSON"),
        ("[" * 60_000, "the line is not JSON"),
        ('"text"', "the line is not a JSON object"),
        ('{"realm_id": 9.5}', "realm_id is not a JSON string"),
        ('{"realm_id": true}', "realm_id is not a JSON string"),
        ('{"refresh_token": 5}', "refresh_token is not a JSON string"),
        ('{"label": {"realm_id": "9"}}', "label is not a JSON string"),
        ('{"label": 7}', "label is not a JSON string"),
        ('{"label": ["eu"]}', "label is not a JSON string"),
        ('{"realm_id": "9", "realm_id": "8"}', "the line has a column twice"),
        ('{"realm_id": "9", "refresh_token": "t", "colour": 1}', "unknown column 'colour'"),
        ('{"label": "a\\u0000b"}', "label has a control character in it"),
        ('{"label": "\\ud800"}', "label has a control character in it"),
    ],
)
def test_a_bad_json_line_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BadLine, match=reason):
        JSON.values(line(text))


def test_a_line_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadLine, match="longer than 64 KiB"):
        CSV.values(Line(3, b"x" * LONGEST_LINE, too_long=True))


def test_a_name_that_may_be_a_token_is_not_repeated() -> None:
    assert TOKEN not in str(reasons(JSON, f'{{"{TOKEN}": "x"}}'))
