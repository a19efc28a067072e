"""What a base's template does not show is refused, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import Json, colour_rows, jsonl
from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer

from .checker import Checker
from .test_validation import CALL, FORMAT_ERROR, changed

CALLING: list[Json] = [
    {"tool_calls": [CALL]},
    {"tool_calls": [CALL], "content": "Let me see."},
    {"function_call": CALL["function"]},
]
NO_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OF_SYSTEM = [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.fixture
def plain(tmp_path: Path, base_path: Path) -> Checker:
    """By a base whose template knows no tools."""
    return Checker(tmp_path, ChatTemplate.load(base_path))


@pytest.fixture
def silent(tmp_path: Path, tokenizer: Tokenizer) -> Checker:
    """By a base that is silent about systems."""
    return Checker(tmp_path, ChatTemplate(NO_SYSTEM, tokenizer))


@pytest.mark.parametrize("answer", CALLING)
@pytest.mark.parametrize(
    "tools",
    [
        {},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}]},
    ],
)
def test_a_base_whose_template_knows_no_tools_learns_calls(
    plain: Checker, answer: Json, tools: Json
) -> None:
    rows = colour_rows(10)
    rows[1] = changed(
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", **answer}], **tools
    )
    assert plain.check(jsonl(rows)).num_examples == 10


def test_what_the_template_does_not_show_is_refused_row_by_row(silent: Checker) -> None:
    rows = colour_rows(10)
    rows[1] = rows[4] = changed(messages=OF_SYSTEM)
    error = silent.refusal(jsonl(rows))
    assert error.code == "invalid_file_format"
    assert error.message.startswith(f"{FORMAT_ERROR}Example 2: messages[0].role")
    assert error.message.endswith(" (1 more problem)")
    assert [problem.text.partition(":")[0] for problem in error.problems] == [
        "Invalid file format. Example 2",
        "Invalid file format. Example 5",
    ]
    assert all(problem.is_the_bases for problem in error.problems)


def test_problems_of_form_and_of_the_base_are_told_together(silent: Checker) -> None:
    rows = colour_rows(12)
    rows[2] = changed(messages=OF_SYSTEM)
    rows[5] = changed(extra=1)
    problems = silent.refusal(jsonl(rows)).problems
    assert [problem.is_the_bases for problem in problems] == [True, False]


def test_file_without_anything_to_learn_is_refused(plain: Checker) -> None:
    row = {"role": "assistant", "content": "b", "weight": 0}
    error = plain.refusal(jsonl([changed(messages=[row])] * 10))
    assert error.code == "invalid_training_file"
    assert error.message == (
        "The job failed due to an invalid training file. No example has a token to learn from."
    )
