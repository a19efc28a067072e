"""What is read quickly is what is read strictly, and where a file is cut into blocks changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset.lint import reading
from foundation.jsonl import MAX_LINE_BYTES
from tests.dataset.lint.rows import chat, chats, codes, dumped, lines, linted, text
from tests.factories import jsonl

GOOD = dumped(chat(500))


@pytest.mark.parametrize(
    "line",
    [
        GOOD.replace(b'"role"', b'"role": "x", "role"', 1),
        GOOD.replace(b'"role"', b'"\\u0072ole": "x", "role"', 1),
        GOOD.replace(b'"messages"', b'"messages": [], "messages"'),
        GOOD.replace(b'"content": "', b'"content": "\\u0000', 1),
        GOOD.replace(b'"content": "', b'"content": "\\ud800', 1),
        GOOD.replace(b'"content": "', b'"content": NaN, "name": "', 1),
        GOOD.replace(b'"content": "', b'"content": "' + b"x" * MAX_LINE_BYTES, 1),
        GOOD[:-1],
    ],
)
def test_what_is_refused_strictly_is_refused_quickly(line: bytes) -> None:
    for content in (jsonl(chats()) + line + b"\n" + GOOD, line + b"\n" + jsonl(chats())):
        report = linted(content)
        assert codes(report) == {"E101"}
        assert lines(report, "E101") == [101 if content.startswith(jsonl(chats())) else 1]


def test_text_that_looks_like_keys_is_no_fault() -> None:
    rows = [chat(i, answer=f'{{"role": "x", "content": "y{i}"}}') for i in range(100)]
    assert codes(linted(rows)) == set()
    odd = chat(500, prompt="role", answer='The key "messages" comes before "role", I should say.')
    assert codes(linted([*chats(), odd])) == set()


@pytest.mark.parametrize("block_bytes", [100, 1000, 5000])
def test_blocks_of_any_size(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = jsonl([*chats(), chat(5), chat(5, answer="Another one. ")]) + b"\n\n[1]\n" + GOOD
    whole = text(linted(content))
    monkeypatch.setattr(reading, "BLOCK_BYTES", block_bytes)
    assert text(linted(content)) == whole
    assert "W203 line 102" in whole
    assert "E102 line 105" in whole


def test_lines_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    content = b"\xef\xbb\xbf" + b"\r\n".join(dumped(row) for row in chats(50)) + b"\n\n" + GOOD
    path.write_bytes(content)
    for block in reading.blocks(path):
        for start, line in zip(block.starts, block.lines, strict=True):
            assert content[start : start + len(line)] == line
