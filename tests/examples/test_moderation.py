"""The rows for moderation, and the script that makes a classifier of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.gateway.moderation import CATEGORIES, SAFE
from examples.moderation import __main__ as script
from examples.moderation import judging, rule

from .labelled import labels_of


@pytest.mark.parametrize("split", rule.MAILS)
def test_the_files_are_what_the_rule_makes_and_a_base_can_learn_from_them(
    split: str, smollm_path: Path, tmp_path: Path
) -> None:
    content = (rule.FOLDER / f"{split}.jsonl").read_bytes()
    assert content == rule.text(split).encode()
    labels = labels_of(content, smollm_path, tmp_path / split)
    assert set(labels.classes) == set(rule.SENTENCES)
    assert set(labels.classes) - {SAFE} <= set(CATEGORIES)


def test_no_sentence_is_in_both_files() -> None:
    bare = {
        split: {
            row["text"].removeprefix(opening)
            for row in rule.rows(split)
            for opening in rule.OPENINGS[split]
        }
        for split in rule.MAILS
    }
    assert not bare["train"] & bare["validation"]
    assert (len(rule.rows("train")), len(judging.rows())) == (279, 66)
    assert (judging.SAFE, judging.rows()) == (SAFE, rule.rows("validation"))


def test_without_a_key_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUTHIER_API_KEY", raising=False)
    assert script.main([]) == 1
    assert "No key: set LUTHIER_API_KEY" in capsys.readouterr().out
