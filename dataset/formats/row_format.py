"""What the forms of rows have in common, and the words for what is wrong with a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from text.chat_template import ChatTemplate, TokenizedExample

Code = Literal["invalid_file_format", "invalid_training_file"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    code: Code
    text: str
    is_the_bases: bool = False
    """Another base might have taken the row, or another job: the file itself may be good."""
    lint: str = "E108"
    """The linter's code for it, see `dataset.lint.catalogue`."""


class RowFormat(Protocol):
    """One form of a row. All rows of a file have the form of its first one."""

    def claims(self, first_row: Row) -> bool:
        """Whether a file that begins so is meant to be of this form."""

    def problems(self, row: Row) -> Iterator[Problem]:
        """What is wrong with the row; the texts go behind "Example 7". What comes after the first may not be asked for."""

    def tokenize(self, row: Row, template: ChatTemplate) -> Sequence[TokenizedExample]:
        """A row without a problem: one sequence, or answers to one prompt that are compared, the best one first.

        Raises ChatTemplateError for one that this base cannot learn from.
        """


def problem_of(row: Row, number: int, row_format: RowFormat) -> Problem | None:
    """The first thing wrong with the file's row `number`, if there is one."""
    found = next(row_format.problems(row), None)
    if found is None:
        return None
    return replace(found, text=f"Invalid file format. Example {number}{found.text}")


def extra(value: Row, known: frozenset[str]) -> Iterator[Problem]:
    for key in value:
        if key not in known:
            yield wrong_keys(f' contains an extra "{key[:100]}".')


def missing(key: str) -> Problem:
    return wrong_keys(f" is missing key '{key}'.")


def wrong_keys(text: str) -> Problem:
    return Problem("invalid_file_format", text, lint="E104")


def wrong_value(text: str, lint: str = "E108") -> Problem:
    return Problem("invalid_training_file", text, lint=lint)


def no_text(key: str, value: object) -> Problem:
    """The value of `key` should be text and is something else."""
    mend = ""
    if isinstance(value, int | float):
        mend = f"; write it in quotes, as {json.dumps(json.dumps(value))}"
    elif value is None:
        mend = "; it is null, write text there or leave the example out"
    return wrong_value(f" {key} Input should be a valid string{mend}")
