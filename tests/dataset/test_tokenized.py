from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dataset import tokenized as dataset
from dataset.tokenized import Dataset, DatasetError
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


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING: list[dict[str, Any]] = [
    {"tool_calls": [CALL]},
    {"tool_calls": [CALL], "content": "Let me see."},
    {"function_call": CALL["function"]},
    {"function_call": CALL["function"], "weight": 0},
]


@pytest.mark.parametrize("answer", CALLING)
def test_calls_that_the_template_does_not_show_are_refused_row_by_row(
    tmp_path: Path, template: ChatTemplate, answer: dict[str, Any]
) -> None:
    calling = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", **answer}]}
    path = write(tmp_path / "a.jsonl", chat("a", "b"), calling, b"", chat("a", "b"), calling)
    with pytest.raises(DatasetError, match="does not show calls") as refusal:
        load(path, template)
    assert str(refusal.value).startswith("Invalid file format. Example 2: messages[1].")
    assert str(refusal.value).endswith(" (1 more problem)")
    assert [text.partition(":")[0] for text in refusal.value.problems] == [
        "Invalid file format. Example 2",
        "Invalid file format. Example 5",
    ]


def test_calls_that_the_template_shows_are_learnt(tmp_path: Path, template: ChatTemplate) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    showing = ChatTemplate(source, template.tokenizer)
    row = chat("a", "", **CALLING[0])
    (example,) = load(write(tmp_path / "a.jsonl", row), showing).examples
    learnt = showing.tokenizer.decode([int(i) for i in example.input_ids[example.weights > 0]])
    assert '"name": "f"' in learnt


@pytest.mark.parametrize("key", ["tools", "functions"])
def test_tools_that_the_template_does_not_show_are_refused(
    tmp_path: Path, template: ChatTemplate, key: str
) -> None:
    tools = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "functions": [{"name": "f"}],
    }
    path = write(tmp_path / "a.jsonl", chat("a", "b"), {**chat("a", "b"), key: tools[key]})
    with pytest.raises(
        DatasetError, match="Example 2: tools: the chat template of this base shows"
    ):
        load(path, template)
    path = write(tmp_path / "a.jsonl", {**chat("a", "b"), "tools": [], "functions": None})
    assert len(load(path, template).examples) == 1


def test_search_for_problems_ends(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", *[chat("a", "b", **CALLING[0])] * 100)
    with pytest.raises(DatasetError, match=r"\(at least 49 more problems\)$") as refusal:
        load(path, template)
    assert len(refusal.value.problems) == dataset.MAX_PROBLEMS


def test_refusal_is_learnt_as_text(tmp_path: Path, template: ChatTemplate) -> None:
    row = chat("a", "", refusal="I can't.")
    (example,) = load(write(tmp_path / "a.jsonl", row), template).examples
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
    loaded = load(write(tmp_path / "a.jsonl", chat("a", "b"), row, row), template)
    assert (loaded.num_silent, loaded.first_silent) == ((2, 2) if is_silent else (0, None))


def peak_bytes(path: Path, template: ChatTemplate) -> int:
    tracemalloc.start()
    try:
        loaded = load(path, template)
        assert sum(1 for _ in loaded.examples) == len(loaded.examples)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path: Path, template: ChatTemplate) -> None:
    # Texts that no cache keeps, and files that fill the buffer of what is written.
    rows = [chat("?", f"{number} " * 250) for number in range(1000, 1700)]
    small = write(tmp_path / "small.jsonl", *rows[:250])
    large = write(tmp_path / "large.jsonl", *rows)
    growth = peak_bytes(large, template) - peak_bytes(small, template)
    assert growth < 0.25 * (large.stat().st_size - small.stat().st_size)
