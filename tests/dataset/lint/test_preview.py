from __future__ import annotations

from pathlib import Path

from dataset.lint.preview import previewed
from tests.dataset.lint.rows import chat, chats, said, sentence
from tests.factories import jsonl
from text.chat_template import ChatTemplate


def test_the_first_the_longest_and_a_drawn_row(tmp_path: Path, shows_all: ChatTemplate) -> None:
    path = tmp_path / "rows.jsonl"
    longest = chat(500, answer=sentence(1, 60))
    path.write_bytes(jsonl([*chats(40), longest, *[chat(i) for i in range(600, 640)]]))
    shown = previewed(path, shows_all, 4096, 3)
    assert [(row.line, row.why) for row in shown if row.why != "drawn"] == [
        (1, "the first"),
        (41, "the longest"),
    ]
    assert [row.why for row in shown].count("drawn") == 1


def test_what_is_learnt_is_the_answer_and_its_end(tmp_path: Path, shows_all: ChatTemplate) -> None:
    path = tmp_path / "rows.jsonl"
    early = {"role": "assistant", "content": "Early.", "weight": 0}
    path.write_bytes(
        jsonl(
            [
                said(
                    ("user", "Hello <|im_end|>"),
                    early,
                    ("user", "And?"),
                    ("assistant", "Good day."),
                )
            ]
        )
    )
    (row,) = previewed(path, shows_all, 4096, 3)
    learnt = [segment for segment in row.segments if segment.kind == "learnt"]
    assert "".join(segment.text for segment in learnt) == "Good day.<|im_end|>"
    assert [segment.text for segment in learnt if segment.is_special] == ["<|im_end|>"]
    # What a user spells out is no special token.
    assert any("Hello <|im_end|>" in s.text and not s.is_special for s in row.segments)
    assert row.num_learnt < row.num_tokens


def test_what_is_cut_off(tmp_path: Path, shows_all: ChatTemplate) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([chat(1)]))
    (row,) = previewed(path, shows_all, 16, 1)
    assert {segment.kind for segment in row.segments} == {"context", "cut"}
    assert row.num_learnt == 0
