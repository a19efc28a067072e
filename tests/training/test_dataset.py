from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modeling.chat_template import ChatTemplate
from training import dataset
from training.dataset import Dataset, DatasetError


@pytest.fixture(scope="module")
def template(base_path: Path) -> ChatTemplate:
    return ChatTemplate.load(base_path)


def chat(question: str, answer: str, **answer_keys: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, **answer_keys},
        ]
    }


def write(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(encoded))
    return path


def load(path: Path, template: ChatTemplate, max_seq_len: int = 2048) -> Dataset:
    return dataset.load(path, template, max_seq_len=max_seq_len)


def test_chat_rows_supervise_answers_only(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", chat("What?", "This."), b"", chat("Who?", "Me."), b"")
    loaded = load(path, template)
    assert len(loaded.examples) == 2
    assert loaded.num_truncated == loaded.num_left_out == 0
    first = loaded.examples[0]
    supervised = [int(i) for i in first.input_ids[first.weights > 0]]
    end_of_turn = 258
    assert supervised == [*b"This.", end_of_turn]
    assert loaded.num_supervised_tokens == len("This.") + len("Me.") + 2
    assert loaded.num_tokens == sum(len(example.input_ids) for example in loaded.examples)


def test_completion_rows_supervise_completion_and_end(
    tmp_path: Path, template: ChatTemplate
) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "1+1=", "completion": "2"})
    (example,) = load(path, template).examples
    assert example.num_supervised_tokens == 2
    assert example.weight == 2


def test_long_example_is_cut_at_its_end_and_counted(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", chat("a", "b" * 500), chat("a", "b"), chat("a" * 500, "b"))
    loaded = load(path, template, max_seq_len=100)
    assert loaded.examples[0].num_tokens == 100
    assert len(loaded.examples) == 2
    assert loaded.num_truncated == 2
    assert loaded.num_left_out == 1  # its answer lies behind the cut


def test_example_without_weight_is_left_out(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", chat("a", "b", weight=0), chat("a", "b"))
    loaded = load(path, template)
    assert len(loaded.examples) == 1
    assert loaded.num_left_out == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"messages": [',
            "Invalid file format. Example 2 cannot be parsed. Error: line contains invalid json: "
            "Expecting value: line 1 column 15 (char 14) (line 2)",
        ),
        (
            b"\xff\xfe",
            "Invalid file format. Example 2 cannot be parsed. "
            "Error: line is not UTF-8: invalid start byte (line 2)",
        ),
        (
            b"[1]",
            "Invalid file format. Example 2 cannot be parsed. "
            "Error: line is not a json object (line 2)",
        ),
        (b'{"text": "x"}', "Invalid file format. Example 2 is missing key 'messages'."),
        (b'{"prompt": "x"}', "Invalid file format. Example 2 is missing key 'completion'."),
        (
            b'{"prompt": "x", "completion": 1}',
            "Invalid file format. Example 2: 'completion' is not a string.",
        ),
        (b'{"messages": "x"}', "Invalid file format. Example 2: 'messages' is not a list."),
        (
            b'{"messages": [{"role": "user", "content": "x"}]}',
            "Invalid file format. Example 2: "
            "a training example needs at least one assistant message.",
        ),
    ],
)
def test_bad_line_is_refused_with_its_number(
    tmp_path: Path, template: ChatTemplate, line: bytes, message: str
) -> None:
    path = write(tmp_path / "a.jsonl", chat("a", "b"), line)
    with pytest.raises(DatasetError) as refusal:
        load(path, template)
    assert str(refusal.value) == message
    assert refusal.value.code == "invalid_file_format"


def test_other_format_is_refused_as_a_whole(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "x"})
    with pytest.raises(DatasetError, match="expected either prompt/completion pairs") as refusal:
        load(path, template)
    assert refusal.value.code == "invalid_training_file"


def test_file_without_anything_to_learn_is_refused(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", chat("a", "b", weight=0))
    with pytest.raises(DatasetError, match="No example has a token to learn from"):
        load(path, template)
