"""The case notes: what their README promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset.validation import validate
from examples.case_notes import rule
from foundation.documents import reader_of
from text.chat_template import ChatTemplate


@pytest.mark.parametrize("split", rule.NUM_NOTES)
def test_the_files_are_what_the_rule_makes_and_a_base_can_learn_from_them(
    split: str, smollm_path: Path, tmp_path: Path
) -> None:
    content = (rule.FOLDER / f"{split}.txt").read_bytes()
    assert content == rule.text(split).encode()
    counted = validate(
        [content],
        tmp_path / split,
        ChatTemplate.load(smollm_path),
        max_seq_len=512,
        role="training",
        file_id="file-X",
        method="unsupervised",
        overlap=0,
        reader=reader_of(f"{split}.txt"),
    )
    assert counted.num_examples == rule.NUM_NOTES[split]
    assert counted.num_left_out == 0


def test_no_note_is_in_both_files() -> None:
    train, validation = (
        {note.partition("\n")[2] for note in rule.notes(split)} for split in rule.NUM_NOTES
    )
    assert (len(train), len(validation)) == (96, 24)
    assert not train & validation
