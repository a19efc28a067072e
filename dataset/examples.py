"""Tokenised examples in a folder, written by one process and read by another; memory holds none of them.

They are read with `pread`, not mapped: pages that are mapped would count as the trainer's own memory.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

_IDS = np.dtype("<i4")
_RUN = np.dtype([("length", "<i4"), ("weight", "<f4")])
"""Neighbours of one weight: an example has a few long runs."""
_ENTRY = struct.Struct("<QI")
"""Where a record ends, and how many tokens it has."""
_RECORDS, _INDEX = "records", "index"
_BUFFER_BYTES = 1 << 20


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
        record = example.input_ids.astype(_IDS).tobytes() + _runs(example.weights).tobytes()
        self._records.write(record)
        self._end += len(record)
        self._index.write(_ENTRY.pack(self._end, example.num_tokens))

    def close(self) -> None:
        try:
            self._records.close()
        finally:
            self._index.close()


class Examples(Sequence[Example]):
    """The examples that a `Writer` wrote into a folder, each of them read when it is asked for.

    Records lie end to end: the ids of an example, then the runs of its weights. An index has an entry for each.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OSError when they are not there."""
        self._records = _open(self, folder / _RECORDS)
        self._index = _open(self, folder / _INDEX)
        self._length = os.fstat(self._index).st_size // _ENTRY.size

    def __len__(self) -> int:
        return self._length

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
        end, num_tokens = self._entry(index)
        record = os.pread(self._records, end - start, start)
        # A copy, because what is read may not be written to.
        ids = np.frombuffer(record, _IDS, num_tokens).astype(np.int32)
        runs = np.frombuffer(record, _RUN, offset=num_tokens * _IDS.itemsize)
        return Example(ids, np.repeat(runs["weight"], runs["length"]))

    def _entry(self, index: int) -> tuple[int, int]:
        end, num_tokens = _ENTRY.unpack(os.pread(self._index, _ENTRY.size, index * _ENTRY.size))
        return end, num_tokens


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
