"""The labelled mails: what their README promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import tickets
from examples.mail_categories import rule

from .labelled import labels_of


@pytest.mark.parametrize("split", rule.SPLITS)
def test_the_files_are_what_the_rule_makes_and_a_base_can_learn_from_them(
    split: str, smollm_path: Path, tmp_path: Path
) -> None:
    content = (rule.FOLDER / f"{split}.jsonl").read_bytes()
    assert content == rule.text(split).encode()
    labels = labels_of(content, smollm_path, tmp_path / split)
    assert set(labels.classes) == set(tickets.FIELDS["category"])


def test_no_mail_is_in_both_files() -> None:
    train, validation = (set(rule.text(split).splitlines()) for split in rule.SPLITS)
    assert (len(train), len(validation)) == (240, 72)
    assert not train & validation
