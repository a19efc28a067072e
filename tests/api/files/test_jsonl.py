from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.files.jsonl import RULE, LineCheck
from foundation.jsonl import LineReader


def problem(content: bytes, cut: int = 1 << 16, check: LineCheck | None = None) -> str | None:
    check = check or LineCheck()
    for start in range(0, len(content), cut):
        check.feed(content[start : start + cut])
    check.finish()
    return check.problem.message if check.problem else None


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}',
        b'{"a": 1}\n{"b": 2}\n',
        b'{"a": 1}\r\n\r\n  \n{"b": "\\u2028 \xe2\x80\xa8"}\n\n',
        b'{"emoji": "\\ud83d\\ude00"}',
        b"{}\n",
    ],
)
def test_lines_of_objects_pass(content: bytes) -> None:
    assert problem(content) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["The file is empty"]),
        (b"\n\n \n", ["The file is empty"]),
        (b'{"a": 1}\n[1]\n', ["Line 2 ", "object"]),
        (b'{"a": 1}\n\n{"a": 1,}\n', ["Line 3 "]),
        (b'[\n {"a": 1}\n]', ["Line 1 ", 'HINT: line starts with: "[', "without the brackets"]),
        (b'{\n "a": 1\n}', ["Line 1 ", "on a line of its own"]),
        (b"prompt,completion\n1,2\n", ["Line 1 ", 'starts with: "prompt"']),
        ('{"a": 1}'.encode("utf-16"), ["Line 1 ", "UTF-16"]),
        (b'{"a": "\xff"}', ["Line 1 ", "UTF-8"]),
        (b'{"a": NaN}', ["Line 1 ", "NaN"]),
        (b'{"a": -Infinity}', ["Line 1 "]),
        (b'{"a": 1e999}', ["Line 1 "]),
        (b'{"a": "\\ud800"}', ["Line 1 ", "surrogate"]),
        (b'{"a": "\\u0000"}', ["Line 1 ", "NUL"]),
        (b'{"a": 1, "a": 2}', ["Line 1 ", "Duplicate key"]),
        (b'{"a": ' + b"9" * 5000 + b"}", ["Line 1 ", "digits"]),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ["Line 1 ", "deep"]),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", ["Line 1 ", "deep"]),
        (b'{"a": 1}\n{"a": "' + b"x" * 2_000_000 + b'"}', ["Line 2 ", "longer than 1048576 bytes"]),
        (b"\x1b[31m", ["Line 1 "]),
    ],
)
def test_the_line_and_what_is_wrong_with_it_are_named(content: bytes, words: list[str]) -> None:
    message = problem(content)
    assert message is not None
    assert message.startswith(RULE)
    for word in words:
        assert word in message
    assert message.isprintable()
    assert len(message) < 500


def test_a_line_of_100_mb_is_refused_and_never_held() -> None:
    reader = LineReader()
    check = LineCheck(reader)
    for _ in range(100):
        check.feed(b"x" * 1_000_000)
        assert len(reader._buffer) <= 3_000_000
    assert check.problem is not None
    assert "longer than" in check.problem.message


def test_nothing_is_read_of_files_for_other_purposes() -> None:
    check = LineCheck()
    check.is_wanted = False
    assert problem(b"no json", check=check) == f"{RULE} The file is empty: it holds no line."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), min_size=1, max_size=5),
    cut=st.integers(1, 40),
    escaped=st.booleans(),
)
def test_what_json_dumps_writes_passes_however_it_is_cut(
    rows: list[Any], cut: int, escaped: bool
) -> None:
    content = "\n".join(json.dumps(row, ensure_ascii=escaped) for row in rows).encode()
    found = problem(content, cut)
    has_nul = "\\u0000" in content.decode()
    assert (found is None) or (has_nul and "NUL" in found)


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=80)
    | st.text(alphabet='{}[]",:\\\n u0d8', max_size=60).map(str.encode)
)
def test_any_bytes_are_judged_and_alike_however_they_are_cut(content: bytes) -> None:
    found = problem(content)
    assert found == problem(content, 1) == problem(content, 7)
    if found is None:
        lines = [line for line in content.split(b"\n") if line.strip()]
        assert all(isinstance(json.loads(line), dict) for line in lines)
