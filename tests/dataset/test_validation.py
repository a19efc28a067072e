from __future__ import annotations

import copy
import errno
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage

from dataset import examples
from dataset.validation import MAX_PROBLEMS, InvalidFile, Role
from tests.dataset.checker import Checker
from tests.factories import Json, chat_row, colour_rows, jsonl

FORMAT_ERROR = (
    "The job failed due to a file format error in the training file. Invalid file format. "
)
INVALID = "The job failed due to an invalid training file. Invalid file format. "
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ROLES = "'system', 'user', 'assistant', 'tool', 'function', 'developer'"


def with_row(row: Any, number: int = 3) -> bytes:
    """Ten rows of which the one at `number` is `row`."""
    rows: list[Any] = colour_rows(10)
    rows[number - 1] = row
    return jsonl(rows)


def with_message(message: Any) -> bytes:
    row: Json = chat_row("Hello?", "Hello!")
    row["messages"].append(message)
    return with_row(row)


def changed(**values: Any) -> Json:
    row = copy.deepcopy(chat_row("Hello?", "Hello!"))
    return {**row, **values}


def test_good_file_is_counted(checker: Checker) -> None:
    rows = [chat_row("Hello?", "héé") for _ in range(10)]
    content = jsonl(rows)
    counts = checker.check(content)
    end_of_turn = 1
    assert (counts.num_rows, counts.num_examples) == (10, 10)
    assert counts.num_supervised_tokens == 10 * (5 + end_of_turn)
    assert counts.sha256 == hashlib.sha256(content).hexdigest()


def test_messages_of_weight_0_are_not_learnt(checker: Checker) -> None:
    row = chat_row("Hello?", "four")
    row["messages"] += [{"role": "assistant", "content": "not this", "weight": 0}]
    row["messages"] += [{"role": "assistant", "content": "six666", "weight": 1}]
    assert checker.check(jsonl([row] * 10)).num_supervised_tokens == 10 * (10 + 2)


@pytest.mark.parametrize(
    "row",
    [
        chat_row("Hello?", "Hello!", system="Be kind."),
        changed(tools=[{"type": "function", "function": {"name": "f"}}], parallel_tool_calls=True),
        changed(functions=[{"name": "f", "parameters": {}}]),
        {
            "messages": [
                {"role": "developer", "content": "Be kind.", "name": "boss"},
                {"role": "user", "content": [{"type": "text", "text": "Hello?"}]},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "1"},
                {"role": "assistant", "content": None, "function_call": CALL["function"]},
                {"role": "function", "name": "f", "content": "1"},
                {"role": "assistant", "content": "One.", "weight": None, "refusal": None},
                {"role": "user", "content": "Thanks."},
            ]
        },
    ],
)
def test_every_kind_of_chat_row_is_accepted(row: Json, checker: Checker) -> None:
    assert checker.check(with_row(row)).num_examples == 10


def test_completion_rows_are_accepted(checker: Checker) -> None:
    rows = [{"prompt": f"{i} ->", "completion": " yes"} for i in range(10)]
    assert checker.check(jsonl(rows)).num_supervised_tokens == 10 * (len(" yes") + 1)


@pytest.mark.parametrize(("count", "role", "least"), [(7, "training", 10), (0, "training", 10)])
def test_too_few_examples_are_told_by_number(
    count: int, role: Role, least: int, checker: Checker
) -> None:
    error = checker.refusal(jsonl(colour_rows(count)), role)
    assert error.code == "invalid_n_examples"
    assert error.message == (
        f"Training file has {count} example(s), but must have at least {least} examples"
    )
    assert error.param == "training_file"


def test_validation_file_may_be_short_but_not_empty(checker: Checker) -> None:
    assert checker.check(jsonl(colour_rows(1)), "validation").num_examples == 1
    error = checker.refusal(b"\n", "validation")
    assert error.message.startswith("Validation file has 0 example(s)")
    assert error.param == "validation_file"


def test_validation_file_is_named_in_the_texts(checker: Checker) -> None:
    error = checker.refusal(jsonl([changed(messages=5)]), "validation")
    assert error.code == "invalid_validation_file"
    assert error.message.startswith("The job failed due to an invalid validation file. ")
    assert error.param == "validation_file"


# OpenAI's own words where they are known, and pydantic's, which it uses, where they are not.
BAD_ROWS: list[tuple[Any, str, str]] = [
    (changed(weight=1), "invalid_file_format", 'Example 3 contains an extra "weight".'),
    ({"prompt": "a", "completion": "b"}, "invalid_file_format", "Example 3 is missing key 'messages'."),
    ({}, "invalid_file_format", "Example 3 is missing key 'messages'."),
    (changed(messages="hi"), "invalid_training_file", "Example 3 messages Input should be a valid list"),
    (
        changed(messages=[]),
        "invalid_training_file",
        "Example 3 messages List should have at least 1 item after validation, not 0",
    ),
    (
        changed(messages=[{"role": "user", "content": "Hello?"}]),
        "invalid_file_format",
        "Example 3 must have at least one message from the assistant.",
    ),
    (changed(tools={}), "invalid_training_file", "Example 3 tools Input should be a valid list"),
    (changed(tools=[{"type": "function"}]), "invalid_training_file", "Example 3 tools name Field required"),
    (
        changed(functions=[{"name": "f"}] * 129),
        "invalid_training_file",
        "Example 3 functions List should have at most 128 items",
    ),
    (
        changed(parallel_tool_calls="yes"),
        "invalid_training_file",
        "Example 3 parallel_tool_calls Input should be a valid boolean",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "code", "text"), BAD_ROWS)
def test_bad_row_is_refused(row: Any, code: str, text: str, checker: Checker) -> None:
    error = checker.refusal(with_row(row))
    assert error.code == code
    assert error.message == (FORMAT_ERROR if code == "invalid_file_format" else INVALID) + text
    assert error.param == "training_file"


BAD_MESSAGES: list[tuple[Any, str, str]] = [
    ("hi", "invalid_training_file", " Input should be a valid dictionary"),
    ({"content": "hi"}, "invalid_training_file", " Discriminator 'role' is missing in value"),
    (
        {"role": "robot", "content": "hi"},
        "invalid_training_file",
        f" Input tag 'robot' found using 'role' does not match any of the expected tags: {ROLES}",
    ),
    (
        {"role": ["user"], "content": "hi"},
        "invalid_training_file",
        f" Input tag '['user']' found using 'role' does not match any of the expected tags: {ROLES}",
    ),
    ({"role": "user"}, "invalid_file_format", " is missing key 'content'."),
    ({"role": "user", "content": None}, "invalid_file_format", " is missing key 'content'."),
    ({"role": "assistant"}, "invalid_file_format", " is missing key 'content'."),
    ({"role": "user", "content": 5}, "invalid_training_file", ' content Input should be a valid string; write it in quotes, as "5"'),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        "invalid_training_file",
        " content has a part of type 'image_url'; only text is read",
    ),
    (
        {"role": "user", "content": [{"type": "text"}]},
        "invalid_training_file",
        " content text Input should be a valid string",
    ),
    (
        {"role": "assistant", "content": "hi", "audio": {"id": "a"}},
        "invalid_training_file",
        " audio is not read by this base; leave it out, or null",
    ),
    (
        {"role": "assistant", "content": "hi", "annotations": {}},
        "invalid_training_file",
        " annotations Input should be a valid list",
    ),
    ({"role": "user", "content": "hi", "weight": 1}, "invalid_file_format", ' contains an extra "weight".'),
    ({"role": "user", "content": "hi", "mood": 1}, "invalid_file_format", ' contains an extra "mood".'),
    (
        {"role": "assistant", "content": "hi", "weight": 2},
        "invalid_training_file",
        " weight Input should be 0 or 1",
    ),
    (
        {"role": "assistant", "content": "hi", "weight": True},
        "invalid_training_file",
        " weight Input should be 0 or 1",
    ),
    (
        {"role": "assistant", "content": "hi", "weight": "1"},
        "invalid_training_file",
        " weight Input should be 0 or 1",
    ),
    (
        {"role": "assistant", "content": "hi", "weight": [1]},
        "invalid_training_file",
        " weight Input should be 0 or 1",
    ),
    ({"role": "user", "content": "hi", "name": 5}, "invalid_training_file", " name Input should be a valid string"),
    ({"role": "tool", "content": "1"}, "invalid_file_format", " is missing key 'tool_call_id'."),
    (
        {"role": "assistant", "tool_calls": "f"},
        "invalid_training_file",
        " tool_calls Input should be a valid list",
    ),
    (
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        "invalid_training_file",
        " function arguments Input should be a valid string",
    ),
    (
        {"role": "assistant", "function_call": "f"},
        "invalid_training_file",
        " function Input should be a valid dictionary",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "code", "text"), BAD_MESSAGES)
def test_bad_message_is_refused(message: Any, code: str, text: str, checker: Checker) -> None:
    error = checker.refusal(with_message(message))
    assert error.code == code
    prefix = FORMAT_ERROR if code == "invalid_file_format" else INVALID
    assert error.message == f"{prefix}Example 3, message 3{text}"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": "a"}, "Example 3 is missing key 'completion'."),
        (chat_row("a", "b"), "Example 3 is missing key 'prompt'."),
        ({"prompt": "a", "completion": "b", "c": 1}, 'Example 3 contains an extra "c".'),
    ],
)
def test_bad_completion_row_is_refused(row: Json, text: str, checker: Checker) -> None:
    rows = [{"prompt": "a", "completion": "b"}] * 10
    rows[2] = row
    error = checker.refusal(jsonl(rows))
    assert (error.code, error.message) == ("invalid_file_format", FORMAT_ERROR + text)


def test_completion_of_a_wrong_type_is_refused(checker: Checker) -> None:
    error = checker.refusal(jsonl([{"prompt": "a", "completion": 5}] * 10))
    assert error.code == "invalid_training_file"
    assert "Example 1 completion Input should be a valid string" in error.message


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"question": "a"}, ""),
        (
            {"text": "a"},
            " These are rows of raw text, which the method 'unsupervised' learns from. For supervised "
            'fine-tuning write each as {"prompt": "", "completion": text}.',
        ),
        ({"instruction": "a", "input": "", "output": "b"}, " These are Alpaca rows"),
        ({"instruction": "a", "output": "b"}, " These are Alpaca rows"),
        ({"input": "a", "output": "b"}, " These are rows of input and output."),
        ({"conversations": [{"from": "human", "value": "a"}]}, " These are ShareGPT rows"),
        ({"prompt_id": 1, "chosen": "a", "rejected": "b"}, " These are preference rows"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_file_of_neither_format_is_refused_as_a_whole(
    checker: Checker, row: dict[str, Any], hint: str
) -> None:
    error = checker.refusal(jsonl([row] * 10))
    assert error.code == "invalid_training_file"
    refused = (
        "The job failed due to an invalid training file. "
        "Unexpected file format, expected either prompt/completion pairs or chat messages."
    )
    assert error.message.startswith(refused + hint)
    assert bool(hint) == (error.message != refused)


def test_messages_of_openai_s_replies_are_taken_as_they_are(checker: Checker) -> None:
    reply = ChatCompletionMessage(role="assistant", content="hi", annotations=[]).model_dump()
    assert {"refusal", "annotations", "audio", "function_call", "tool_calls"} <= reply.keys()
    called = {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "sunny"}
    row = {"messages": [{"role": "user", "content": "x"}, called, reply]}
    statistics = checker.check(jsonl([row] * 10))
    assert statistics.num_examples == 10


def test_a_refusal_is_learnt_from(checker: Checker) -> None:
    answer = {"role": "assistant", "content": None, "refusal": "I will not."}
    row = {"messages": [{"role": "user", "content": "x"}, answer]}
    statistics = checker.check(jsonl([row] * 10))
    assert statistics.num_supervised_tokens == 10 * (len("I will not.") + 1)


def test_preference_file_is_refused_by_its_method(checker: Checker) -> None:
    row = {"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}
    assert checker.refusal(jsonl([row] * 10)).message == (
        f"{INVALID}Input file file-X is in the fine-tune-preference format, but the specified "
        "fine-tuning job is not using 'dpo' as the training method (provided method=supervised). "
    )


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            '{"messages": [] "a": 1}',
            "line contains invalid json: Expecting ',' delimiter: line 1 column 17 (char 16)",
        ),
        ('{"messages": NaN}', "line contains invalid json: NaN is not JSON"),
        (
            '{"messages": [], "messages": []}',
            'line contains invalid json: Duplicate key "messages"',
        ),
        ('"hi"', "line contains invalid json: Expecting an object"),
    ],
)
def test_line_that_is_no_json_is_refused_in_openais_words(
    line: str, error: str, checker: Checker
) -> None:
    lines = [json.dumps(row) for row in colour_rows(10)]
    lines[2] = line
    refused = checker.refusal("\n".join(lines).encode())
    assert refused.code == "invalid_file_format"
    assert refused.message == f"{FORMAT_ERROR}Example 3 cannot be parsed. Error: {error} (line 3)"


def test_all_problems_are_collected_and_counted(checker: Checker) -> None:
    rows: list[Any] = colour_rows(20)
    rows[3] = changed(extra=1)
    rows[9] = {}
    lines = jsonl(rows).splitlines()
    lines[14] = b"nonsense"
    error = checker.refusal(b"\n".join(lines))
    assert error.message == f'{FORMAT_ERROR}Example 4 contains an extra "extra". (2 more problems)'
    assert [problem.text.split("Example ")[1][:2] for problem in error.problems] == [
        "4 ",
        "10",
        "15",
    ]


def test_search_ends_after_fifty_problems(checker: Checker) -> None:
    num_read = 0

    def chunks() -> Iterator[bytes]:
        nonlocal num_read
        for _ in range(1000):
            num_read += 1
            yield b"nonsense\n"

    with pytest.raises(InvalidFile) as caught:
        checker.check_chunks(chunks())
    assert len(caught.value.problems) == MAX_PROBLEMS
    assert caught.value.message.endswith("(at least 49 more problems)")
    assert num_read == MAX_PROBLEMS


class Ended(Exception):
    """Whoever reads a file is told to stop."""


def test_what_ends_the_reading_is_told_though_the_disk_is_full(
    checker: Checker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written of a file that nobody will train on cannot be finished, and need not be."""
    monkeypatch.setattr(examples, "_RECORDS", "/dev/full")
    checker.refusal(with_row({"messages": []}, number=9))

    def stopped() -> Iterator[bytes]:
        yield jsonl(colour_rows(10))
        raise Ended

    with pytest.raises(Ended):
        checker.check_chunks(stopped())
    with pytest.raises(OSError, match="No space left") as full:
        checker.check(jsonl(colour_rows(10)))
    assert full.value.errno == errno.ENOSPC
