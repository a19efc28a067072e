"""Tokenised examples in a folder, written by one process and read by another; memory holds none of them.

They are read with `pread`, not mapped: pages that are mapped would count as the trainer's own memory.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

_IDS = np.dtype("<i4")
_RUN = np.dtype([("length", "<i4"), ("weight", "<f4")])
"""Neighbours of one weight: an example has a few long runs."""
_ENTRY = struct.Struct("<QIII")
"""Where a record ends, how many tokens it has and in how many sequences, and its `num_bytes`."""
_RECORDS, _INDEX = "records", "index"
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Example:
    """What is trained on as a whole: mostly one sequence of tokens, or several that are compared.

    `weights[t]` is the weight of predicting token t from those before it in the same sequence.
    """

    input_ids: npt.NDArray[np.int32]  # (T,), of one sequence after the other
    weights: npt.NDArray[np.float32]  # (T,)
    lengths: tuple[int, ...] = ()
    """Of the sequences, the best one first; nothing if it is one."""
    index: int = -1
    """Its place among the examples of a file."""
    num_bytes: int = 0
    """Of raw text: those that what is learnt of it stands for."""

    @classmethod
    def of_sequences(cls, sequences: Sequence[Example]) -> Example:
        if len(sequences) == 1:
            return sequences[0]
        return cls(
            np.concatenate([each.input_ids for each in sequences]),
            np.concatenate([each.weights for each in sequences]),
            tuple(each.num_tokens for each in sequences),
        )

    @property
    def sequences(self) -> list[Example]:
        if not self.lengths:
            return [self]
        cuts = np.cumsum(self.lengths)[:-1]
        parts = zip(np.split(self.input_ids, cuts), np.split(self.weights, cuts), strict=True)
        return [Example(ids, weights) for ids, weights in parts]

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def num_supervised_tokens(self) -> int:
        # Nothing predicts the first token.
        return sum(int(np.count_nonzero(each.weights[1:])) for each in self.sequences)

    @property
    def weight(self) -> float:
        return sum(float(each.weights[1:].sum(dtype=np.float64)) for each in self.sequences)


class Writer:
    """Writes examples into a new folder, a bounded number of bytes at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when the disk is full, as all that follows does."""
        folder.mkdir()
        self._folder = folder
        self._records = (folder / _RECORDS).open("wb", _BUFFER_BYTES)
        self._index = (folder / _INDEX).open("wb", _BUFFER_BYTES)
        self._end = 0

    def append(self, example: Example) -> None:
        lengths = np.array(example.lengths, _IDS)
        parts = (lengths, example.input_ids.astype(_IDS), _runs(example.weights))
        record = b"".join(part.tobytes() for part in parts)
        self._records.write(record)
        self._end += len(record)
        entry = (self._end, example.num_tokens, len(lengths), example.num_bytes)
        self._index.write(_ENTRY.pack(*entry))

    def close(self) -> None:
        try:
            self._records.close()
        finally:
            self._index.close()


class Examples(Sequence[Example]):
    """The examples that a `Writer` wrote into a folder, each of them read when it is asked for.

    Records lie end to end: the lengths of an example's sequences if it has several, its ids, then the runs of its
    weights. An index has an entry for each.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OSError when they are not there."""
        self._records = _open(self, folder / _RECORDS)
        self._index = _open(self, folder / _INDEX)
        self._length = os.fstat(self._index).st_size // _ENTRY.size

    def __len__(self) -> int:
        return self._length

    @cached_property
    def longest(self) -> int:
        """How many tokens the largest of them has."""
        entries = os.pread(self._index, self._length * _ENTRY.size, 0)
        return max((num_tokens for _, num_tokens, *_ in _ENTRY.iter_unpack(entries)), default=0)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(len(self)))]
        return self._read(range(len(self))[index])

    def _read(self, index: int) -> Example:
        start = self._entry(index - 1)[0] if index else 0
        end, num_tokens, num_lengths, num_bytes = self._entry(index)
        record = os.pread(self._records, end - start, start)
        numbers = np.frombuffer(record, _IDS, num_lengths + num_tokens)
        # A copy, because what is read may not be written to.
        ids = numbers[num_lengths:].astype(np.int32)
        runs = np.frombuffer(record, _RUN, offset=numbers.nbytes)
        weights = np.repeat(runs["weight"], runs["length"])
        lengths = tuple(numbers[:num_lengths].tolist())
        return Example(ids, weights, lengths, index, num_bytes)

    def _entry(self, index: int) -> tuple[int, int, int, int]:
        entry = os.pread(self._index, _ENTRY.size, index * _ENTRY.size)
        end, num_tokens, num_lengths, num_bytes = _ENTRY.unpack(entry)
        return end, num_tokens, num_lengths, num_bytes


def _open(owner: Examples, path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    weakref.finalize(owner, os.close, descriptor)
    return descriptor


def _runs(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    starts = np.flatnonzero(np.diff(weights, prepend=np.float32("nan")) != 0)
    runs = np.empty(len(starts), _RUN)
    runs["length"] = np.diff(starts, append=len(weights))
    runs["weight"] = weights[starts]
    return runs
