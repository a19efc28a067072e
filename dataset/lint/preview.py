"""Some rows as a base is shown them: which tokens are learnt, which are context, and which are cut off."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataset.formats.first_row import format_of
from dataset.formats.row_format import Problem, Row, RowFormat, problem_of
from foundation.jsonl import BadLine, read_line
from text.chat_template import ChatTemplate, TokenizedExample
from text.messages import ChatTemplateError

from .forms import method_of
from .reading import blocks

Kind = Literal["context", "learnt", "cut"]


@dataclass(frozen=True)
class ShownSegment:
    """Neighbours of one kind."""

    text: str
    kind: Kind
    is_special: bool
    """Whether it is a special token, which no text can be."""


@dataclass(frozen=True)
class PreviewedRow:
    line: int
    why: str
    """That it is the first, the longest, or drawn."""
    segments: tuple[ShownSegment, ...]
    num_tokens: int
    num_learnt: int
    problem: str = ""
    """Why the base cannot learn from it; then there are no segments."""


def previewed(
    path: Path, template: ChatTemplate, max_seq_len: int, num: int, method: str | None = None
) -> list[PreviewedRow]:
    """The first row, the longest, and others that are drawn, `num` in all. Raises OSError."""
    choice = _Choice(num, method)
    for block in blocks(path):
        for index, line in enumerate(block.lines):
            choice.see(line, block.number + index)
    return [
        shown
        for number, (why, row) in sorted(choice.result().items())
        if choice.row_format is not None
        for shown in _shown(row, number, why, choice.row_format, template, max_seq_len)
    ]


class _Choice:
    """Among the rows of a file; no more of them than wanted are kept, or read."""

    def __init__(self, num: int, method: str | None) -> None:
        self._num, self._method = num, method
        self._random = random.Random(0)
        self._num_seen = self._longest_bytes = 0
        self._first: tuple[int, Row] | None = None
        self._longest: tuple[int, Row] | None = None
        self._drawn: list[tuple[int, Row]] = []
        self.row_format: RowFormat | None = None

    def see(self, line: bytes, number: int) -> None:
        is_longest = len(line) > self._longest_bytes
        place = int(self._random.random() * (self._num_seen + 1))
        self._num_seen += 1
        if self._first is not None and not is_longest and place >= self._num:
            return
        row = self._good_row(line, number)
        if row is None:
            return
        self._first = self._first or (number, row)
        if is_longest:
            self._longest, self._longest_bytes = (number, row), len(line)
        if len(self._drawn) < self._num:
            self._drawn.append((number, row))
        elif place < self._num:
            self._drawn[place] = (number, row)

    def result(self) -> dict[int, tuple[str, Row]]:
        """By line."""
        wanted = [
            (why, each)
            for why, each in (("the first", self._first), ("the longest", self._longest))
            if each
        ]
        wanted += [("drawn", each) for each in reversed(self._drawn)]
        chosen: dict[int, tuple[str, Row]] = {}
        for why, (number, row) in wanted:
            if number not in chosen and len(chosen) < self._num:
                chosen[number] = (why, row)
        return chosen

    def _good_row(self, line: bytes, number: int) -> Row | None:
        row = _row(line, number)
        if row is None:
            return None
        if self.row_format is None:
            found = format_of(row, "", self._method or method_of(row))
            if isinstance(found, Problem):
                return None
            self.row_format = found
        return row if problem_of(row, number, self.row_format) is None else None


def _row(line: bytes, number: int) -> Row | None:
    try:
        return read_line(line, number)
    except BadLine:
        return None


def _shown(
    row: Row, number: int, why: str, row_format: RowFormat, template: ChatTemplate, max_seq_len: int
) -> list[PreviewedRow]:
    try:
        sequences = row_format.tokenize(row, template)
    except ChatTemplateError as error:
        return [PreviewedRow(number, why, (), 0, 0, str(error))]
    return [
        PreviewedRow(
            number,
            why if len(sequences) == 1 else f"{why}, {'better' if not place else 'worse'} answer",
            tuple(_segments(each, template, max_seq_len)),
            len(each.input_ids),
            sum(weight > 0 for weight in each.weights[1:max_seq_len]),
        )
        for place, each in enumerate(sequences)
    ]


def _segments(
    example: TokenizedExample, template: ChatTemplate, max_seq_len: int
) -> Sequence[ShownSegment]:
    special = template.tokenizer.special_ids

    def kind(place: int) -> tuple[Kind, bool]:
        # Nothing predicts the first token; windows of raw text are never cut.
        is_cut = place >= max_seq_len and example.num_bytes is None
        is_learnt = place > 0 and example.weights[place] > 0
        return "cut" if is_cut else "learnt" if is_learnt else "context", example.input_ids[
            place
        ] in special

    groups = itertools.groupby(range(len(example.input_ids)), key=kind)
    return [
        ShownSegment(
            template.tokenizer.decode([example.input_ids[i] for i in places], skip_special=False),
            *of,
        )
        for of, places in groups
    ]
