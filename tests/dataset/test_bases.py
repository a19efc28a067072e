"""What a base's template does not show is refused, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import Json, colour_rows, jsonl
from text.chat_template import ChatTemplate

from .checker import Checker
from .test_validation import CALL, FORMAT_ERROR, changed, with_row

CALLING: list[Json] = [
    {"tool_calls": [CALL]},
    {"tool_calls": [CALL], "content": "Let me see."},
    {"function_call": CALL["function"]},
    {"function_call": CALL["function"], "weight": 0},
]


@pytest.fixture
def plain(tmp_path: Path, base_path: Path) -> Checker:
    """By a base that shows no tools."""
    return Checker(tmp_path, ChatTemplate.load(base_path))


@pytest.mark.parametrize("answer", CALLING)
def test_calls_that_the_template_does_not_show_are_refused_row_by_row(
    plain: Checker, answer: Json
) -> None:
    rows = colour_rows(10)
    rows[1] = rows[4] = changed(
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", **answer}]
    )
    error = plain.refusal(jsonl(rows))
    assert error.code == "invalid_file_format"
    assert error.message.startswith(f"{FORMAT_ERROR}Example 2: messages[1].")
    assert "does not show calls" in error.message
    assert error.message.endswith(" (1 more problem)")
    assert [problem.text.partition(":")[0] for problem in error.problems] == [
        "Invalid file format. Example 2",
        "Invalid file format. Example 5",
    ]
    assert all(problem.is_the_bases for problem in error.problems)


@pytest.mark.parametrize(
    "tools",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}]},
    ],
)
def test_tools_that_the_template_does_not_show_are_refused(plain: Checker, tools: Json) -> None:
    error = plain.refusal(with_row(changed(**tools)))
    assert error.message.startswith(
        f"{FORMAT_ERROR}Example 3: tools: the chat template of this base shows"
    )
    assert plain.check(with_row(changed(tools=[], functions=None))).num_examples == 10


def test_problems_of_form_and_of_the_base_are_told_together(plain: Checker) -> None:
    rows = colour_rows(12)
    rows[2] = changed(tools=[{"type": "function", "function": {"name": "f"}}])
    rows[5] = changed(extra=1)
    problems = plain.refusal(jsonl(rows)).problems
    assert [problem.is_the_bases for problem in problems] == [True, False]


def test_file_without_anything_to_learn_is_refused(plain: Checker) -> None:
    row = {"role": "assistant", "content": "b", "weight": 0}
    error = plain.refusal(jsonl([changed(messages=[row])] * 10))
    assert error.code == "invalid_training_file"
    assert error.message == (
        "The job failed due to an invalid training file. No example has a token to learn from."
    )
