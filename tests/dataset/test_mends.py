"""What is wrong with a file is told with what would mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataset.labels import Labels
from dataset.validation import InvalidFile, validate
from tests.dataset.checker import Checker
from tests.factories import jsonl


def refusal(checker: Checker, folder: Path, rows: list[Any], **options: Any) -> str:
    with pytest.raises(InvalidFile) as caught:
        validate(
            [jsonl(rows)],
            folder / "examples",
            checker.template,
            **{
                "max_seq_len": 2048,
                "role": "training",
                "file_id": "file-X",
                "method": "supervised",
                **options,
            },
        )
    return caught.value.message


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        (1, 'write it in quotes, as "1"'),
        (True, "write it in quotes, as "),
        (None, "it is null, write text there or leave the example out"),
    ],
)
@pytest.mark.parametrize("key", ["text", "label"])
def test_a_value_that_is_no_text(
    checker: Checker, tmp_path: Path, key: str, value: Any, mend: str
) -> None:
    rows = [{"text": "x", "label": "ab"[i % 2]} for i in range(10)] + [
        {"text": "x", "label": "a", key: value}
    ]
    options = {"method": "classification", "labels": Labels()}
    message = refusal(checker, tmp_path, rows, **options)
    assert f"Example 11 {key} Input should be a valid string; {mend}" in message


def test_what_is_learnt_stands_behind_the_tokens_that_are_read(
    checker: Checker, tmp_path: Path
) -> None:
    rows = [{"prompt": "long " * 20, "completion": "yes"}] * 10
    message = refusal(checker, tmp_path, rows, max_seq_len=16)
    assert "to learn from: 10 of 10 are longer than 16 tokens, and what is learnt" in message
    labelled = [{"text": "long " * 20, "label": "ab"[i % 2]} for i in range(10)]
    options = {"method": "classification", "labels": Labels(), "max_seq_len": 16}
    folder = tmp_path / "labelled"
    folder.mkdir()
    assert "10 of 10 are longer than 16 tokens" in refusal(checker, folder, labelled, **options)


def test_how_many_windows_a_text_has_is_told_with_what_makes_more(
    checker: Checker, tmp_path: Path
) -> None:
    options = {"method": "unsupervised", "overlap": 0}
    message = refusal(checker, tmp_path, [{"text": "one document " * 50}], **options)
    assert "windows of 2048 tokens that they become, whichever are more: more text, or" in message
