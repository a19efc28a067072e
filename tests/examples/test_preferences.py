"""The preference pairs: what their README promises."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from dataset.validation import validate
from examples.preferences import rule
from text.chat_template import ChatTemplate


@pytest.mark.parametrize("split", rule.NUM_ROWS)
def test_the_files_are_what_the_rule_makes_and_a_base_can_learn_from_them(
    split: str, smollm_path: Path, tmp_path: Path
) -> None:
    content = (rule.FOLDER / f"{split}.jsonl").read_bytes()
    assert content == rule.text(split).encode()
    template = ChatTemplate.load(smollm_path)
    counted = validate(
        [content],
        tmp_path / split,
        template,
        max_seq_len=512,
        role="training",
        file_id="file-X",
        method="dpo",
    )
    assert counted.num_examples == rule.NUM_ROWS[split]
    assert (counted.num_truncated, counted.num_left_out, counted.num_silent) == (0, 0, 0)


def test_the_preferred_reply_cannot_be_told_by_its_length() -> None:
    pairs = [
        tuple(len(row[name][0]["content"]) for name in ("preferred_output", "non_preferred_output"))
        for row in rule.rows("train")
    ]
    longer = mean(preferred > other for preferred, other in pairs)
    assert 0.2 < longer < 0.8
    assert 0.9 < mean(p for p, _ in pairs) / mean(o for _, o in pairs) < 1.1


def test_no_mail_is_in_both_files() -> None:
    train, validation = (
        {row["input"]["messages"][1]["content"] for row in rule.rows(split)}
        for split in ("train", "validation")
    )
    assert len(train) == 100
    assert not train & validation
