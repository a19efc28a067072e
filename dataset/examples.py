"""Tokenised examples on disk: memory holds where each one lies, whatever the file's size.

They are read with `pread`, not mapped: pages that are mapped would count as the trainer's own memory.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

_IDS = np.dtype("<i4")
_RUN = np.dtype([("length", "<i4"), ("weight", "<f4")])
"""Neighbours of one weight: an example has a few long runs."""
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


class Examples(Sequence[Example]):
    """A list of examples in a file that has no name, and is gone with the process or with this object.

    Records lie end to end: the ids of an example, then the runs of its weights.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` lies on the disk that takes them."""
        self._descriptor, name = tempfile.mkstemp(dir=folder)
        weakref.finalize(self, os.close, self._descriptor)
        Path(name).unlink()
        self._unwritten = bytearray()
        self._ends = array("Q", [0])
        """Where each record ends, behind the 0 where the first one begins."""
        self._num_tokens = array("I")

    def append(self, example: Example) -> None:
        """Raises OSError when the disk is full."""
        record = example.input_ids.astype(_IDS).tobytes() + _runs(example.weights).tobytes()
        self._unwritten += record
        self._ends.append(self._ends[-1] + len(record))
        self._num_tokens.append(example.num_tokens)
        if len(self._unwritten) >= _BUFFER_BYTES:
            self._write()

    def __len__(self) -> int:
        return len(self._num_tokens)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(len(self)))]
        return self._read(range(len(self))[index])

    def _read(self, index: int) -> Example:
        if self._unwritten:
            self._write()
        start, end = self._ends[index], self._ends[index + 1]
        record = os.pread(self._descriptor, end - start, start)
        num_tokens = self._num_tokens[index]
        # A copy, because what is read may not be written to.
        ids = np.frombuffer(record, _IDS, num_tokens).astype(np.int32)
        runs = np.frombuffer(record, _RUN, offset=num_tokens * _IDS.itemsize)
        return Example(ids, np.repeat(runs["weight"], runs["length"]))

    def _write(self) -> None:
        while self._unwritten:
            del self._unwritten[: os.write(self._descriptor, self._unwritten)]


def _runs(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    starts = np.flatnonzero(np.diff(weights, prepend=np.float32("nan")) != 0)
    runs = np.empty(len(starts), _RUN)
    runs["length"] = np.diff(starts, append=len(weights))
    runs["weight"] = weights[starts]
    return runs
