"""Rows with labels: what is learnt of them, which labels there are, and which rows are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataset.labels import MAX_LABELS, Labels
from dataset.tokenized import Dataset
from dataset.validation import InvalidFile, Role, validate
from tests.factories import Json, jsonl
from text.chat_template import ChatTemplate


def texts(*labels: str) -> list[Json]:
    return [{"text": f"Text {n}", "label": label} for n, label in enumerate(labels)]


def chat(*turns: tuple[str, str], **last: Any) -> Json:
    messages: list[Json] = [{"role": role, "content": content} for role, content in turns]
    messages[-1] |= last
    return {"messages": messages}


@pytest.fixture(scope="module")
def template(base_path: Path) -> ChatTemplate:
    return ChatTemplate.load(base_path)


def load(
    folder: Path,
    template: ChatTemplate,
    rows: list[Json],
    labels: Labels | None = None,
    *,
    role: Role = "training",
    max_seq_len: int = 2048,
    method: str = "classification",
) -> tuple[Labels, Dataset]:
    found = labels or Labels()
    examples = folder / f"{role}-{len(list(folder.iterdir()))}"
    validate(
        [jsonl(rows)],
        examples,
        template,
        max_seq_len=max_seq_len,
        role=role,
        file_id="file-X",
        method=method,
        labels=found if method == "classification" else None,
    )
    return found, Dataset.open(examples)


def refusal(folder: Path, template: ChatTemplate, rows: list[Json], **options: Any) -> InvalidFile:
    with pytest.raises(InvalidFile) as caught:
        load(folder, template, rows, **options)
    return caught.value


def learnt(dataset: Dataset) -> list[bytes]:
    return [
        bytes(i for i in example.input_ids[example.weights != 0].tolist() if i < 256)
        for example in dataset.examples
    ]


def test_the_label_alone_is_learnt_in_all_three_forms(
    tmp_path: Path, template: ChatTemplate
) -> None:
    question = ("user", "Is 7 odd?")
    turns = chat(question, ("assistant", "no"), ("user", "Sure?"), ("assistant", "yes"))
    yes, no = chat(question, ("assistant", "yes")), chat(question, ("assistant", "no"))
    labels, dataset = load(tmp_path, template, [turns, *[yes] * 5, *[no] * 5])
    assert learnt(dataset) == [b"yes"] * 6 + [b"no"] * 5
    assert (labels.form, labels.once) == ("chat", {})
    assert {text: of.count for text, of in labels.classes.items()} == {"yes": 6, "no": 5}

    of_text, dataset = load(tmp_path, template, texts(*["yes", "no"] * 5))
    assert of_text.form == "text"
    assert of_text.classes["yes"].token_ids == labels.classes["yes"].token_ids
    # As a question and its answer: so the model can be asked in a chat.
    first = template.tokenize_chat(chat(("user", "Text 0"), ("assistant", "yes"))["messages"])
    assert dataset.examples[0].input_ids.tolist() == first.input_ids

    pairs = [{"prompt": f"{n}\n\n###\n\n", "completion": f" {'yn'[n % 2]}"} for n in range(10)]
    of_pair, dataset = load(tmp_path, template, pairs)
    assert of_pair.form == "completion"
    assert learnt(dataset)[:2] == [b" y", b" n"]
    # Its end is learnt with it.
    assert of_pair.classes[" y"].token_ids[-1] == template.tokenizer.eos_id


def test_a_label_seen_once_is_known_by_its_line(tmp_path: Path, template: ChatTemplate) -> None:
    labels, _ = load(tmp_path, template, texts(*["a", "b"] * 5, "bb", "a"))
    assert labels.once == {"bb": 11}


def test_labels_that_are_one_to_the_base_and_one_label_that_is_two_are_told() -> None:
    labels = Labels()
    assert labels.see(1, "a", (1, 2)) is None
    same = labels.see(2, "a ", (1, 2))
    assert same is not None
    assert "Example 2 has the label 'a ', which is the same to this base as 'a'" in same.text
    two = labels.see(3, "a", (3, 2))
    assert two is not None
    assert "Example 3 has the label 'a' as other tokens than example 1" in two.text


def test_labels_that_training_lacks_are_refused_by_their_line(
    tmp_path: Path, template: ChatTemplate
) -> None:
    labels, _ = load(tmp_path, template, texts(*["a", "b"] * 5))
    load(tmp_path, template, texts("b"), labels, role="validation")
    error = refusal(tmp_path, template, texts("a", "c"), labels=labels, role="validation")
    assert error.param == "validation_file"
    assert (
        "Example 2 has the label 'c', which no example of the training file has; those are 'a', 'b'"
        in (error.message)
    )
    assert error.problems[0].is_the_bases
    pairs: list[Json] = [{"prompt": "x", "completion": "a"}]
    error = refusal(tmp_path, template, pairs, labels=labels, role="validation")
    assert "Its rows are of the form 'completion', those of the training file 'text'" in (
        error.message
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, "Example 11 is missing key 'label'"),
        ({"text": "x", "label": 1}, "Example 11 label Input should be a valid string"),
        ({"text": "x", "label": " "}, "Example 11 has an empty label"),
        (
            {"text": " ", "label": "a"},
            "Example 11 text is empty: there is nothing that could be classified",
        ),
        ({"text": "x", "label": "a", "id": 1}, 'Example 11 contains an extra "id"'),
        ({"text": "x", "label": "y" * 64}, "a label of 65 tokens, 'yyyy"),
    ],
)
def test_rows_without_a_good_label_are_refused_with_line_and_mend(
    tmp_path: Path, template: ChatTemplate, row: Json, words: str
) -> None:
    assert words in refusal(tmp_path, template, [*texts(*["a", "b"] * 5), row]).message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (chat(("assistant", "a"), ("user", "x")), "message 2 is of the user: the last message"),
        (chat(("user", "x"), ("assistant", "a"), weight=0), "message 2 has the weight 0"),
        (
            chat(
                ("user", "x"),
                ("assistant", "a"),
                tool_calls=[{"function": {"name": "f", "arguments": "{}"}}],
            ),
            "message 2 calls a tool",
        ),
        (chat(("user", "x"), ("assistant", "")), "has an empty label"),
    ],
)
def test_chats_whose_last_message_is_no_label_are_refused(
    tmp_path: Path, template: ChatTemplate, row: Json, words: str
) -> None:
    good = chat(("user", "x"), ("assistant", "a"))
    message = refusal(tmp_path, template, [*[good] * 10, row]).message
    assert "Example 11" in message
    assert words in message


def test_an_empty_prompt_has_nothing_to_classify(tmp_path: Path, template: ChatTemplate) -> None:
    message = refusal(tmp_path, template, [{"prompt": "", "completion": "a"}] * 10).message
    assert "Example 1 prompt is empty" in message


def test_one_label_and_more_than_there_may_be_are_no_classes(
    tmp_path: Path, template: ChatTemplate
) -> None:
    message = refusal(tmp_path, template, texts(*["a"] * 10)).message
    assert "All examples have the label 'a'" in message
    most = [f"label {n}" for n in range(MAX_LABELS)]
    load(tmp_path, template, texts(*most))
    message = refusal(tmp_path, template, texts(*most, "another")).message
    assert f"Example {MAX_LABELS + 1} has the label 'another', one more than the 100" in message
    assert "use the method 'supervised'" in message


def test_rows_too_long_for_their_label_are_left_out(tmp_path: Path, template: ChatTemplate) -> None:
    rows = [*texts(*["a", "b"] * 5), {"text": "x" * 200, "label": "c"}]
    labels, dataset = load(tmp_path, template, rows, max_seq_len=100)
    assert sorted(labels.classes) == ["a", "b"]
    assert (dataset.statistics.num_too_long, dataset.statistics.num_truncated) == (1, 0)
    assert len(dataset.examples) == 10


def test_other_rows_are_sent_to_their_method(tmp_path: Path, template: ChatTemplate) -> None:
    assert "expected labels" in refusal(tmp_path, template, [{"input": "x"}] * 10).message
    message = refusal(tmp_path, template, texts("a", "b"), method="supervised").message
    assert "rows of text and label, which the method 'classification' learns from" in message
