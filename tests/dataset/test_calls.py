"""Rows with calls and reasoning: what is wrong with one is told by its line."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dataset.checker import Checker
from tests.factories import colour_rows, jsonl


def refused(checker: Checker, message: dict[str, Any]) -> str:
    """What is said of a file whose eleventh row has the message behind a question."""
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", **message}]}
    return checker.refusal(jsonl([*colour_rows(10), row])).message


@pytest.mark.parametrize(
    "arguments", ["Oslo", "[1]", '"{}"', "{'city': 'Oslo'}", '{"a": "\\ud800"}', '{"a":' * 5000]
)
def test_arguments_are_an_object(checker: Checker, arguments: str) -> None:
    function = {"name": "weather", "arguments": arguments}
    for message in ({"function_call": function}, {"tool_calls": [{"function": function}]}):
        expected = (
            "Example 11, message 2 function arguments Input should be a JSON object in a string"
        )
        assert expected in refused(checker, message)
    good = {"role": "assistant", "function_call": {"name": "f", "arguments": ""}}
    row = {"messages": [{"role": "user", "content": "?"}, good]}
    assert checker.check(jsonl([row] * 10)).num_silent == 0


def test_reasoning_is_a_text_and_shown(checker: Checker) -> None:
    message = {"content": "4", "reasoning_content": ["2 and 2"]}
    expected = "Example 11, message 2 reasoning_content Input should be a valid string"
    assert expected in refused(checker, message)
    message = {"content": "4", "reasoning_content": "2 and 2"}
    assert "Example 11: messages[1].reasoning_content: the chat template" in refused(
        checker, message
    )
