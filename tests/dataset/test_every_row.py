"""Whatever the rows: what validation accepts is tokenised without an error, and what it counts is in the examples."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.formats import chat, completion
from dataset.formats.row_format import RowFormat, problem_of
from dataset.tokenized import Dataset, Statistics
from dataset.validation import MAX_PROBLEMS, InvalidFile, validate
from tests.factories import Json, jsonl
from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError

MAX_SEQ_LEN = 60


@pytest.fixture(scope="module", params=["base_path", "smollm_path", "shows_all"])
def template(request: pytest.FixtureRequest) -> ChatTemplate:
    """That of tiny-random, that of SmolLM2, and one that shows tools."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, ChatTemplate) else ChatTemplate.load(found)


TEXTS = st.sampled_from(["", " ", "yes", "<|im_end|>", "héé\n", "\U0010fffd", "a" * 200])
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, -1, 0.5, "", "x", [], {}, [None], [{}], {"a": [1]}]
)
FUNCTION = st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS | st.just('{"a": 1}')})
CALLS = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}))
TOOL = st.fixed_dictionaries({"name": TEXTS}, optional={"parameters": ODD})
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=3)


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Now and then something else, which may be just as good."""
    return st.one_of(strategy, strategy, strategy, strategy, strategy, strategy, ODD)


MESSAGES = st.lists(
    mostly(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(("user", "assistant") * 4 + chat.ROLES),
                "content": mostly(TEXTS | PARTS),
            },
            optional={
                "name": ODD,
                "weight": ODD,
                "refusal": TEXTS,
                "tool_call_id": TEXTS,
                "tool_calls": mostly(CALLS),
                "function_call": mostly(FUNCTION),
            }
            | dict.fromkeys(("annotations", "audio", "extra"), ODD),
        )
        | st.fixed_dictionaries(
            {"role": st.sampled_from(("user", "assistant", "assistant")), "content": TEXTS}
        )
    ),
    max_size=4,
)
CHAT = st.fixed_dictionaries(
    {"messages": mostly(MESSAGES)},
    optional={
        "tools": mostly(st.lists(st.fixed_dictionaries({"function": TOOL}), max_size=2)),
        "functions": mostly(st.lists(TOOL, max_size=2)),
        "parallel_tool_calls": ODD,
    },
)
GOOD_CHAT = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS})
            | st.fixed_dictionaries(
                {"role": st.just("assistant"), "content": TEXTS}, optional={"tool_calls": CALLS}
            ),
            min_size=1,
            max_size=4,
        )
    },
    optional={
        "tools": st.lists(
            st.fixed_dictionaries({"type": st.just("function"), "function": TOOL}), max_size=2
        )
    },
)
COMPLETION = st.fixed_dictionaries({"prompt": mostly(TEXTS), "completion": mostly(TEXTS)})


def is_learnable(row: Json, row_format: RowFormat, template: ChatTemplate) -> bool:
    """By the form of the row and what the template does with it, each asked by itself."""
    if problem_of(row, 1, row_format) is not None:
        return False
    if row_format is completion:
        template.tokenize_completion(row["prompt"], row["completion"])
        return True
    tools = list(row.get("tools") or [])
    tools += [{"type": "function", "function": each} for each in row.get("functions") or []]
    try:
        template.tokenize_chat(row["messages"], tools or None)
    except ChatTemplateError:
        return False
    return True


def checked(content: bytes, template: ChatTemplate) -> tuple[Statistics, Dataset] | InvalidFile:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "examples"
        try:
            counted = validate(
                [content],
                folder,
                template,
                max_seq_len=MAX_SEQ_LEN,
                role="validation",
                file_id="file-X",
                method="supervised",
            )
        except InvalidFile as error:
            return error
        return counted, Dataset.open(folder)


@settings(deadline=None, max_examples=150)
@given(
    file=st.lists(CHAT | GOOD_CHAT, min_size=1, max_size=3)
    | st.lists(COMPLETION, min_size=1, max_size=3)
)
def test_validation_accepts_what_can_be_tokenised_and_nothing_else(
    template: ChatTemplate, file: list[Json]
) -> None:
    row_format: RowFormat = chat if "messages" in file[0] else completion
    content = jsonl(file)
    good = [is_learnable(json.loads(line), row_format, template) for line in content.splitlines()]
    found = checked(content, template)
    if isinstance(found, InvalidFile):
        if all(good):
            assert "No example has a token to learn from" in found.message
            return
        numbers = [n for n, is_good in enumerate(good, start=1) if not is_good]
        assert len(found.problems) == len(numbers) <= MAX_PROBLEMS
        for number, problem in zip(numbers, found.problems, strict=True):
            assert f"Example {number}" in problem.text
        return
    assert all(good)
    counted, dataset = found
    examples = list(dataset.examples)
    assert dataset.statistics == counted
    assert counted.num_rows == len(file)
    assert counted.num_examples == len(examples) == len(file) - counted.num_left_out
    assert counted.num_tokens == sum(e.num_tokens for e in examples)
    assert counted.num_supervised_tokens == sum(e.num_supervised_tokens for e in examples)
    assert all(e.weight > 0 and 0 < e.num_tokens <= MAX_SEQ_LEN for e in examples)
