from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dataset.tokenized import Dataset, Statistics
from dataset.validation import validate
from tests.factories import jsonl
from text.chat_template import ChatTemplate


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


def load(
    folder: Path, template: ChatTemplate, *rows: dict[str, Any], max_seq_len: int = 2048
) -> Dataset:
    statistics = validate(
        [jsonl(rows)],
        folder / "examples",
        template,
        max_seq_len=max_seq_len,
        role="validation",
        file_id="file-X",
        method="supervised",
    )
    loaded = Dataset.open(folder / "examples")
    assert loaded.statistics == statistics
    return loaded


def test_chat_rows_supervise_answers_only(tmp_path: Path, template: ChatTemplate) -> None:
    loaded = load(tmp_path, template, chat("What?", "This."), chat("Who?", "Me."))
    assert len(loaded.examples) == 2
    first = loaded.examples[0]
    supervised = [int(i) for i in first.input_ids[first.weights > 0]]
    end_of_turn = 258
    assert supervised == [*b"This.", end_of_turn]


def test_counts_are_those_of_the_examples(tmp_path: Path, template: ChatTemplate) -> None:
    rows = [chat("a", "b" * 500), chat("a", "b"), chat("a" * 500, "b"), chat("a", "b", weight=0)]
    loaded = load(tmp_path, template, *rows, chat("a", ""), max_seq_len=100)
    examples = list(loaded.examples)
    assert examples[0].num_tokens == 100
    assert loaded.statistics == Statistics(
        num_rows=5,
        num_examples=len(examples),
        num_tokens=sum(example.num_tokens for example in examples),
        num_supervised_tokens=sum(example.num_supervised_tokens for example in examples),
        num_truncated=2,
        num_left_out=2,  # one answer lies behind the cut
        num_silent=1,
        first_silent=5,
        sha256=hashlib.sha256(jsonl([*rows, chat("a", "")])).hexdigest(),
    )


def test_completion_rows_supervise_completion_and_end(
    tmp_path: Path, template: ChatTemplate
) -> None:
    (example,) = load(tmp_path, template, {"prompt": "1+1=", "completion": "2"}).examples
    assert example.num_supervised_tokens == 2
    assert example.weight == 2


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_calls_that_the_template_shows_are_learnt(tmp_path: Path, template: ChatTemplate) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    showing = ChatTemplate(source, template.tokenizer)
    (example,) = load(tmp_path, showing, chat("a", "", tool_calls=[CALL])).examples
    learnt = showing.tokenizer.decode([int(i) for i in example.input_ids[example.weights > 0]])
    assert '"name": "f"' in learnt


def test_refusal_is_learnt_as_text(tmp_path: Path, template: ChatTemplate) -> None:
    row = chat("a", "", refusal="I can't.")
    (example,) = load(tmp_path, template, row).examples
    assert bytes(example.input_ids[example.weights > 0][:-1].tolist()) == b"I can't."


@pytest.mark.parametrize(
    ("row", "is_silent"),
    [
        (chat("a", "b"), False),
        (chat("a", ""), True),
        (chat("a", "", weight=0), False),
        (chat("a", " "), False),
        ({"messages": [*chat("a", "")["messages"], *chat("c", "d")["messages"]]}, True),
        ({"messages": [*chat("a", "b")["messages"], *chat("c", "")["messages"]]}, True),
        ({"messages": [*chat("a", "", weight=0)["messages"], *chat("c", "d")["messages"]]}, False),
        ({"prompt": "a", "completion": ""}, True),
        ({"prompt": "a", "completion": "b"}, False),
    ],
)
def test_rows_that_teach_silence_are_counted(
    tmp_path: Path, template: ChatTemplate, row: dict[str, Any], is_silent: bool
) -> None:
    first = chat("a", "b") if "messages" in row else {"prompt": "a", "completion": "b"}
    counts = load(tmp_path, template, first, row, row).statistics
    assert (counts.num_silent, counts.first_silent) == ((2, 2) if is_silent else (0, None))


def peak_bytes(folder: Path, template: ChatTemplate, rows: list[dict[str, Any]]) -> int:
    folder.mkdir()
    chunks = (jsonl([row]) for row in rows)
    tracemalloc.start()
    try:
        validate(
            chunks,
            folder / "examples",
            template,
            max_seq_len=2048,
            role="training",
            file_id="file-X",
            method="supervised",
        )
        loaded = Dataset.open(folder / "examples")
        assert sum(1 for _ in loaded.examples) == len(rows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path: Path, template: ChatTemplate) -> None:
    # Texts that no cache keeps, and files that fill the buffer of what is written.
    rows = [chat("?", f"{number} " * 250) for number in range(1000, 1700)]
    growth = peak_bytes(tmp_path / "large", template, rows) - peak_bytes(
        tmp_path / "small", template, rows[:250]
    )
    assert growth < 0.05 * len(jsonl(rows[250:]))


@pytest.mark.parametrize("num_bytes", [0, 1, -12, -1])
def test_a_folder_that_lost_examples_is_refused(
    tmp_path: Path, template: ChatTemplate, num_bytes: int
) -> None:
    load(tmp_path, template, *(chat("Who?", "Me.") for _ in range(5)))
    index = tmp_path / "examples" / "index"
    os.truncate(index, num_bytes % index.stat().st_size)
    with pytest.raises(OSError, match="instead of 5"):
        Dataset.open(tmp_path / "examples")
