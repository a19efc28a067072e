"""A JSONL file becomes tokenised examples: token ids and how much each token counts.

A line is a chat row ({"messages": [...]}) or a completion row ({"prompt": ..., "completion": ...}).
The worker has checked the file's form before; what is refused here, in the words of OpenAI's job
errors and with 1-based example numbers, is what tokenising brings to light.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from text.chat_template import ChatTemplate, TokenizedExample
from text.messages import ChatTemplateError

from .examples import Example, Examples

MAX_PROBLEMS = 50
"""Where the search for more ends; one bad row is often the first of as many as there are rows."""


class DatasetError(Exception):
    """A file that cannot be trained on. `code` and the text are those of OpenAI's job errors."""

    def __init__(
        self, detail: str, *, code: str = "invalid_file_format", problems: Sequence[str] = ()
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.problems = list(problems) or [detail]
        """All that is wrong, as far as it was searched for."""


@dataclass(frozen=True)
class Dataset:
    """The examples in the order of the file, and what had to be done to them."""

    examples: Sequence[Example]
    num_tokens: int
    num_supervised_tokens: int
    num_truncated: int
    num_left_out: int
    """Rows with no token to learn from; they are not among the examples."""
    num_silent: int
    """Rows that teach the end of a turn right at its beginning."""
    first_silent: int | None
    """The 1-based number of the first of them."""


def load(path: Path, template: ChatTemplate, *, max_seq_len: int) -> Dataset:
    """As `read`, without a pause."""
    reading = read(path, template, max_seq_len=max_seq_len)
    while True:
        try:
            next(reading)
        except StopIteration as done:
            dataset: Dataset = done.value
            return dataset


def read(
    path: Path,
    template: ChatTemplate,
    *,
    max_seq_len: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Generator[int, None, Dataset]:
    """Tokenise every row; those longer than max_seq_len tokens lose their end.

    Yields after each row how many bytes of the file are read. The examples lie on the disk that the file
    lies on. `check_stop` is called before each row and may raise. Raises DatasetError, and OSError when
    the disk is full.
    """
    tally = _Tally(Examples(path.parent), max_seq_len, template.tokenizer.eos_ids)
    problems: list[DatasetError] = []
    for number, line, num_bytes in _lines(path):
        check_stop()
        try:
            tally.add(number, _tokenize(_row(line, number), number, template))
        except DatasetError as error:
            problems.append(error)
            if error.code != "invalid_file_format" or len(problems) == MAX_PROBLEMS:
                break
        yield num_bytes
    if problems:
        raise _all_of(problems)
    return tally.dataset()


class _Tally:
    """What has been read so far."""

    def __init__(self, examples: Examples, max_seq_len: int, eos_ids: frozenset[int]) -> None:
        self._examples = examples
        self._max_seq_len = max_seq_len
        self._eos_ids = eos_ids
        self._num_tokens = self._num_supervised_tokens = 0
        self._num_truncated = self._num_left_out = 0
        self._num_silent = 0
        self._first_silent: int | None = None

    def add(self, number: int, tokenized: TokenizedExample) -> None:
        self._num_truncated += len(tokenized.input_ids) > self._max_seq_len
        example = Example(
            np.array(tokenized.input_ids[: self._max_seq_len], dtype=np.int32),
            np.array(tokenized.weights[: self._max_seq_len], dtype=np.float32),
        )
        num_supervised_tokens = example.num_supervised_tokens
        if not num_supervised_tokens:
            self._num_left_out += 1
            return
        self._examples.append(example)
        self._num_tokens += example.num_tokens
        self._num_supervised_tokens += num_supervised_tokens
        if _teaches_silence(example, self._eos_ids):
            self._num_silent += 1
            self._first_silent = self._first_silent or number

    def dataset(self) -> Dataset:
        if not self._examples:
            raise DatasetError(
                "No example has a token to learn from.", code="invalid_training_file"
            )
        return Dataset(
            self._examples,
            self._num_tokens,
            self._num_supervised_tokens,
            self._num_truncated,
            self._num_left_out,
            self._num_silent,
            self._first_silent,
        )


def _teaches_silence(example: Example, eos_ids: frozenset[int]) -> bool:
    """Whether a learnt turn consists of its end alone."""
    is_learnt = np.concatenate([[False], example.weights > 0, [False]])
    starts = np.flatnonzero(is_learnt[1:-1] & ~is_learnt[:-2])
    is_alone = ~is_learnt[2:][starts]
    return any(int(token_id) in eos_ids for token_id in example.input_ids[starts[is_alone]])


def _lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """The lines with their 1-based numbers, and where each ends; blank lines are passed over."""
    num_bytes = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            num_bytes += len(line)
            if line.strip():
                yield number, line, num_bytes


def _row(line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise _cannot_parse(number, f"line is not UTF-8: {error.reason}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise _cannot_parse(number, f"line contains invalid json: {error}") from error
    if not isinstance(row, dict):
        raise _cannot_parse(number, "line is not a json object")
    return row


def _cannot_parse(number: int, error: str) -> DatasetError:
    return _refusal(f"Example {number} cannot be parsed. Error: {error} (line {number})")


def _refusal(detail: str) -> DatasetError:
    return DatasetError(f"Invalid file format. {detail}")


def _all_of(problems: list[DatasetError]) -> DatasetError:
    """The first one, and how many there are besides."""
    text, others = str(problems[0]), len(problems) - 1
    if others:
        at_least = "at least " if len(problems) == MAX_PROBLEMS else ""
        text += f" ({at_least}{others} more {'problem' if others == 1 else 'problems'})"
    return DatasetError(text, code=problems[0].code, problems=[str(p) for p in problems])


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
    # What "functions" was before it became "tools".
    functions = [{"type": "function", "function": f} for f in row.get("functions") or ()]
    try:
        return template.tokenize_chat(
            row["messages"], [*(row.get("tools") or ()), *functions] or None
        )
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
