"""A JSONL file becomes tokenised examples: token ids and how much each token counts.

A line is a chat row ({"messages": [...]}) or a completion row ({"prompt": ..., "completion": ...}).
The worker has checked the file's form before; what is refused here, in the words of OpenAI's job
errors and with 1-based example numbers, is what tokenising brings to light.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.chat_template import ChatTemplate, TokenizedExample
from modeling.messages import ChatTemplateError


class DatasetError(Exception):
    """A file that cannot be trained on. `code` and the text are those of OpenAI's job errors."""

    def __init__(self, detail: str, *, code: str = "invalid_file_format") -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class Example:
    """One row. `weights[t]` is the weight of predicting token t from those before it."""

    input_ids: npt.NDArray[np.int32]  # (T,)
    weights: npt.NDArray[np.float32]  # (T,)

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def num_supervised_tokens(self) -> int:
        # Nothing predicts the first token.
        return int(np.count_nonzero(self.weights[1:]))

    @property
    def weight(self) -> float:
        return float(self.weights[1:].sum(dtype=np.float64))


@dataclass(frozen=True)
class Dataset:
    """The examples in the order of the file, and what had to be done to them."""

    examples: list[Example]
    num_truncated: int
    num_left_out: int
    """Rows with no token to learn from; they are not among the examples."""

    @property
    def num_tokens(self) -> int:
        return sum(example.num_tokens for example in self.examples)

    @property
    def num_supervised_tokens(self) -> int:
        return sum(example.num_supervised_tokens for example in self.examples)


def load(
    path: Path,
    template: ChatTemplate,
    *,
    max_seq_len: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Dataset:
    """Tokenise every row; those longer than max_seq_len tokens lose their end.

    `check_stop` is called before each row and may raise. Raises DatasetError.
    """
    examples: list[Example] = []
    num_truncated = num_left_out = 0
    for number, row in _rows(path):
        check_stop()
        tokenized = _tokenize(row, number, template)
        num_truncated += len(tokenized.input_ids) > max_seq_len
        example = Example(
            np.array(tokenized.input_ids[:max_seq_len], dtype=np.int32),
            np.array(tokenized.weights[:max_seq_len], dtype=np.float32),
        )
        if example.num_supervised_tokens:
            examples.append(example)
        else:
            num_left_out += 1
    if not examples:
        raise DatasetError("No example has a token to learn from.", code="invalid_training_file")
    return Dataset(examples, num_truncated, num_left_out)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their 1-based numbers, which are line numbers; blank lines are passed over."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise _cannot_parse(number, f"line is not UTF-8: {error.reason}") from error
            except (json.JSONDecodeError, RecursionError) as error:
                raise _cannot_parse(number, f"line contains invalid json: {error}") from error
            if not isinstance(row, dict):
                raise _cannot_parse(number, "line is not a json object")
            yield number, row


def _cannot_parse(number: int, error: str) -> DatasetError:
    return _refusal(f"Example {number} cannot be parsed. Error: {error} (line {number})")


def _refusal(detail: str) -> DatasetError:
    return DatasetError(f"Invalid file format. {detail}")


def _tokenize(row: dict[str, Any], number: int, template: ChatTemplate) -> TokenizedExample:
    if "messages" in row:
        return _tokenize_chat(row, number, template)
    if "prompt" in row or "completion" in row:
        return _tokenize_completion(row, number, template)
    if number > 1:
        raise _refusal(f"Example {number} is missing key 'messages'.")
    raise DatasetError(
        "Unexpected file format, expected either prompt/completion pairs or chat messages.",
        code="invalid_training_file",
    )


def _tokenize_chat(row: dict[str, Any], number: int, template: ChatTemplate) -> TokenizedExample:
    if not isinstance(row["messages"], list):
        raise _refusal(f"Example {number}: 'messages' is not a list.")
    try:
        return template.tokenize_chat(row["messages"], row.get("tools"))
    except ChatTemplateError as error:
        raise _refusal(f"Example {number}: {error}.") from error


def _tokenize_completion(
    row: dict[str, Any], number: int, template: ChatTemplate
) -> TokenizedExample:
    for key in ("prompt", "completion"):
        if key not in row:
            raise _refusal(f"Example {number} is missing key '{key}'.")
        if not isinstance(row[key], str):
            raise _refusal(f"Example {number}: '{key}' is not a string.")
    return template.tokenize_completion(row["prompt"], row["completion"])
