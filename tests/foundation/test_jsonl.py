from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.jsonl import MAX_INT_DIGITS, BadLine, LineReader

Line = tuple[int, dict[str, Any]]


def read(data: bytes, chunk_bytes: int = 7, **limits: int) -> tuple[list[Line], list[BadLine]]:
    """All good lines and all bad ones, as a validator reads them."""
    reader = LineReader(**limits)
    good: list[Line] = []
    bad: list[BadLine] = []
    for chunk in [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]:
        lines = reader.feed(chunk)
        while True:
            try:
                good.extend(lines)
                break
            except BadLine as error:
                bad.append(error)
                lines = reader.feed(b"")
    try:
        good.extend(reader.close())
    except BadLine as error:
        bad.append(error)
    return good, bad


def bad_message(data: bytes, **limits: int) -> str:
    _, bad = read(data, **limits)
    assert len(bad) == 1
    return bad[0].message


def test_lines_are_numbered_from_one_and_blank_ones_counted() -> None:
    good, bad = read(b'{"a": 1}\n\n  \r\n{"b": [true, null, 1.5]}\r\n{"c": "\xc3\xa9\xe2\x80\xa8"}')
    assert good == [
        (1, {"a": 1}),
        (4, {"b": [True, None, 1.5]}),
        (5, {"c": "\xe9\u2028"}),
    ]
    assert bad == []


def test_bad_line_reads_as_openai_says_it() -> None:
    _, bad = read(b'{"a": 1}\n{"a": 1 "b": 2}\n{"a": 2}\n')
    assert [str(error) for error in bad] == [
        "Invalid file format. Example 2 cannot be parsed. Error: line contains invalid json: "
        "Expecting ',' delimiter: line 1 column 9 (char 8) (line 2)"
    ]


def test_reader_goes_on_behind_a_bad_line() -> None:
    good, bad = read(b'{"a": 1}\nnonsense\n{"b": 1}\n[1]\n{"c": 1}')
    assert [number for number, _ in good] == [1, 3, 5]
    assert [error.line_number for error in bad] == [2, 4]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "The number 1e999 is out of range"),
        (b'{"a": ' + b"9" * (MAX_INT_DIGITS + 1) + b"}", "more than 100 digits"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "more than 100 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'Duplicate key "c"'),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a": "\x00"}', "Invalid control character"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8"),
        (b"[1, 2]", "Expecting an object"),
        (b'"text"', "Expecting an object"),
        (b"{} {}", "Extra data"),
        ("{}".encode("utf-16"), "the file is in UTF-16; save it as UTF-8"),
        (b"\xfe\xff" + "{}".encode("utf-16-be"), "the file is in UTF-16; save it as UTF-8"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "Nested deeper than 64 levels"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "Nested deeper than 64 levels"),
    ],
)
def test_line_is_refused_with_its_reason(line: bytes, part: str) -> None:
    assert part in bad_message(line, chunk_bytes=65_536)


@pytest.mark.parametrize("chunk_bytes", [1, 2, 100])
def test_a_byte_order_mark_at_the_start_means_nothing(chunk_bytes: int) -> None:
    mark = b"\xef\xbb\xbf"
    assert read(mark + b'{"a": 1}\n{"b": 2}', chunk_bytes) == read(
        b'{"a": 1}\n{"b": 2}', chunk_bytes
    )
    assert read(mark + b'\n{"a": 1}', chunk_bytes) == read(b'\n{"a": 1}', chunk_bytes)
    # Elsewhere it is a character like any other, and no JSON.
    assert read(b'{"a": 1}\n' + mark + b'{"b": 2}', chunk_bytes)[1] != []


def test_depth_at_the_limit_is_read() -> None:
    good, bad = read(b'{"a": ' * 64 + b"1" + b"}" * 64)
    assert len(good) == 1
    assert bad == []


def test_surrogate_pairs_and_other_escapes_are_read() -> None:
    good, _ = read(b'{"a": "\\ud83d\\ude00 \\\\u0000 \\u00e9"}')
    assert good == [(1, {"a": "\U0001f600 \\u0000 \xe9"})]


def test_long_line_is_told_once_and_passed_over_in_constant_memory() -> None:
    reader = LineReader(max_line_bytes=1000)
    good: list[Line] = []
    bad: list[BadLine] = []
    for chunk in [b'{"a": 1}\n', b'{"b": "'] + [b"x" * 500] * 1000 + [b'"}\n{"c": 1}\n']:
        try:
            good.extend(reader.feed(chunk))
        except BadLine as error:
            bad.append(error)
        assert len(reader._buffer) < 3000
    assert [error.line_number for error in bad] == [2]
    assert good == [(1, {"a": 1}), (3, {"c": 1})]


def test_line_of_exactly_the_limit_is_read() -> None:
    line = b'{"a": "' + b"x" * 91 + b'"}'
    assert len(line) == 100
    assert len(read(line, max_line_bytes=100)[0]) == 1
    assert "longer than 99 bytes" in bad_message(line + b"\n", max_line_bytes=99)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('a"\\\n\r\xe9\u2028\U0001f600'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab\u2028\x85"), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text("xyz\xe9"), json_values), max_size=6),
    chunk_bytes=st.integers(1, 200),
    ensure_ascii=st.booleans(),
    ending=st.sampled_from([b"\n", b"\r\n"]),
)
def test_any_rows_come_back_whatever_the_chunks(
    rows: list[dict[str, Any]], chunk_bytes: int, ensure_ascii: bool, ending: bytes
) -> None:
    data = ending.join(json.dumps(row, ensure_ascii=ensure_ascii).encode() for row in rows)
    good, bad = read(data, chunk_bytes)
    assert bad == []
    assert good == list(enumerate(rows, start=1))


@settings(deadline=None)
@given(data=st.binary(max_size=300), chunk_bytes=st.integers(1, 50))
def test_any_bytes_are_read_or_refused_and_never_crash(data: bytes, chunk_bytes: int) -> None:
    good, bad = read(data, chunk_bytes, max_line_bytes=40)
    numbers = [number for number, _ in good] + [error.line_number for error in bad]
    assert len(set(numbers)) == len(numbers)
