"""Tokenised rows become examples in a folder: token ids and how much each token counts. And what there is to count."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from text.chat_template import ChatTemplate, TokenizedExample

from .examples import Example, Examples, Writer
from .windows import cut, cut_alike, windows

_STATISTICS = "statistics.json"


@dataclass(frozen=True)
class Statistics:
    """What a file holds, in one epoch and after truncation: what is decided by, and what is trained on."""

    num_rows: int
    num_examples: int
    num_tokens: int
    num_supervised_tokens: int
    num_truncated: int
    num_left_out: int
    """Rows with no token to learn from; they are not among the examples."""
    num_silent: int
    """Examples that teach the end of a turn right at its beginning."""
    first_silent: int | None
    """The 1-based number of the first of them."""
    sha256: str
    """Of the file that was tokenised."""
    num_too_long: int = 0
    """Rows that are good for nothing unless they are whole; they are not among the examples."""


@dataclass(frozen=True)
class Dataset:
    """A tokenised file: the examples in the order of its rows."""

    examples: Sequence[Example]
    statistics: Statistics

    @property
    def longest(self) -> int:
        """How many tokens the largest example has."""
        if isinstance(self.examples, Examples):
            return self.examples.longest
        return max(example.num_tokens for example in self.examples)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """What a `Tally` wrote there. Raises OSError when it is not there, or not all of it."""
        statistics = Statistics(**json.loads((folder / _STATISTICS).read_text()))
        examples = Examples(folder)
        if len(examples) != statistics.num_examples:
            # Fewer would be trained on without a word.
            raise OSError(
                f"{folder} has {len(examples)} tokenised examples instead of {statistics.num_examples}"
            )
        return cls(examples, statistics)


class Tally:
    """Counts tokenised rows, and writes those that there is something to learn from into a folder.

    Use as a context manager. The folder is a `Dataset` when `finish` was called, and not before.
    """

    def __init__(
        self,
        folder: Path,
        template: ChatTemplate,
        max_seq_len: int,
        overlap: int | None = None,
        *,
        are_whole: bool = False,
    ) -> None:
        """Rows of more tokens than `max_seq_len` lose their end, with an `overlap` become several windows, and are left
        out if they must be whole.

        Those of several answers to one prompt lose the prompt's beginning. Raises OSError when the disk is full.
        """
        self._writer = Writer(folder)
        self._folder = folder
        self._max_seq_len = max_seq_len
        self._overlap = overlap
        self._are_whole = are_whole
        self._eos_ids = template.tokenizer.eos_ids
        self._bos_id = template.tokenizer.bos_id
        self.num_rows = self.num_examples = 0
        self._num_tokens = self._num_supervised_tokens = 0
        self._num_truncated = self._num_left_out = 0
        self._num_too_long = self._num_alike = 0
        self._num_silent = 0
        self._first_silent: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
        except OSError:
            # Whatever ended the work says more than that its rest could not be written.
            if error is None:
                raise

    @property
    def what_counts(self) -> str:
        """To add to how many examples there are, where that is no matter of rows."""
        if self._overlap is None:
            return ""
        return (
            f". Of raw text documents count, or the windows of {self._max_seq_len} tokens that they become, whichever are "
            "more: more text, or a smaller luthier.max_seq_len, makes more"
        )

    @property
    def why_none(self) -> str:
        """To add to that nothing can be learnt."""
        num_long = self._num_truncated + self._num_too_long
        if not num_long:
            return ""
        if self._num_alike == self.num_rows:
            return (
                f": the answers of each pair are alike as far as {self._max_seq_len} tokens reach. Answers that differ "
                "sooner help, or a larger luthier.max_seq_len where that was asked for"
            )
        return (
            f": {num_long} of {self.num_rows} are longer than {self._max_seq_len} tokens, and what is learnt stands "
            "behind those. Shorter prompts help, or a larger luthier.max_seq_len where that was asked for"
        )

    def has_room_for(self, tokenized: TokenizedExample) -> bool:
        return len(tokenized.input_ids) <= self._max_seq_len

    def add(self, number: int, sequences: Sequence[TokenizedExample]) -> None:
        """The row `number`: one sequence, or those of it that are compared, the best one first."""
        self.num_rows += 1
        if self._overlap is not None:
            (tokenized,) = sequences
            parts = windows(tokenized, self._max_seq_len, self._overlap)
            self._num_left_out += not sum(self._append(part) for part in parts)
            return
        is_too_long = not all(map(self.has_room_for, sequences))
        if self._are_whole and is_too_long:
            self._num_too_long += 1
            return
        self._num_truncated += is_too_long
        if len(sequences) > 1:
            example = cut_alike(sequences, self._max_seq_len, self._bos_id)
            is_useful = _differ(example) and self._append(example)
            self._num_alike += _are_alike(example)
        else:
            example = cut(sequences[0], self._max_seq_len)
            is_useful = self._append(example)
        if not is_useful:
            self._num_left_out += 1
        elif not self._are_whole and _teaches_silence(example.sequences[0], self._eos_ids):
            self._num_silent += 1
            self._first_silent = self._first_silent or number

    def _append(self, example: Example) -> bool:
        """Whether there is something to learn from it."""
        num_supervised_tokens = example.num_supervised_tokens
        if not num_supervised_tokens:
            return False
        self._writer.append(example)
        self.num_examples += 1
        self._num_tokens += example.num_tokens
        self._num_supervised_tokens += num_supervised_tokens
        return True

    def finish(self, sha256: str) -> Statistics:
        """`sha256` is that of the whole file."""
        self._writer.close()
        statistics = Statistics(
            self.num_rows,
            self.num_examples,
            self._num_tokens,
            self._num_supervised_tokens,
            self._num_truncated,
            self._num_left_out,
            self._num_silent,
            self._first_silent,
            sha256,
            self._num_too_long,
        )
        (self._folder / _STATISTICS).write_text(json.dumps(asdict(statistics)))
        return statistics


def _differ(example: Example) -> bool:
    """Whether every answer is still another one than the next, and each has a token left."""
    is_empty = any(len(answer) == 0 for answer in _answers(example))
    return not is_empty and not _are_alike(example)


def _are_alike(example: Example) -> bool:
    return any(itertools.starmap(np.array_equal, itertools.pairwise(_answers(example))))


def _answers(example: Example) -> list[npt.NDArray[np.int32]]:
    return [each.input_ids[1:][each.weights[1:] != 0] for each in example.sequences]


def _teaches_silence(example: Example, eos_ids: frozenset[int]) -> bool:
    """Whether a learnt turn consists of its end alone."""
    is_learnt = np.concatenate([[False], example.weights > 0, [False]])
    starts = np.flatnonzero(is_learnt[1:-1] & ~is_learnt[:-2])
    is_alone = ~is_learnt[2:][starts]
    return any(int(token_id) in eos_ids for token_id in example.input_ids[starts[is_alone]])
