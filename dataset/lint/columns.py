"""Numbers of all rows, a few bytes each: lists grow a while in memory and are then on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_DTYPES: dict[str, np.dtype[Any]] = {
    "number": np.dtype("<u4"),
    "offset": np.dtype("<u8"),
    "length": np.dtype("<u4"),
    "prompt": np.dtype("<i8"),
    "answer": np.dtype("<i8"),
    "prompt_chars": np.dtype("<u4"),
    "answer_chars": np.dtype("<u4"),
    "learnt_chars": np.dtype("<u4"),
    "style": np.dtype("<u4"),
    "sketch": np.dtype("<u4"),
}
NAMES = tuple(name for name in _DTYPES if name != "sketch")
"""The line's number, where it begins and how long it is; hashes of what stands before its last answer, and of that;
lengths in characters; the form of a JSON answer, see `answers`. Sketches are of `near`."""
BYTES_A_ROW = sum(_DTYPES[name].itemsize for name in NAMES)


class RowColumns:
    """In files of a folder whose names begin with `name`; as many rows in each."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self._files: dict[str, BinaryIO] = {}
        self.num_rows = 0

    def extend(self, values: dict[str, Iterable[int]], num_rows: int) -> None:
        for name, numbers in values.items():
            self._file(name).write(np.array(numbers, _DTYPES[name]).tobytes())
        self.num_rows += num_rows

    def write(self, name: str, numbers: npt.NDArray[np.generic]) -> None:
        self._file(name).write(numbers.astype(_DTYPES[name]).tobytes())

    def read(self, name: str) -> npt.NDArray[np.int64]:
        """As integers of 64 bits; hashes may be negative."""
        self._file(name).flush()
        return np.fromfile(self._of(name), _DTYPES[name]).astype(np.int64)

    def band(self, band: int, num_bands: int) -> npt.NDArray[np.uint32]:
        """One number of each row's sketch. The sketches as a whole are not in memory."""
        self._file("sketch").flush()
        path = self._of("sketch")
        if not path.stat().st_size:
            return np.zeros(0, np.uint32)
        sketches = np.memmap(path, _DTYPES["sketch"], "r").reshape(-1, num_bands)
        return np.array(sketches[:, band])

    def _of(self, name: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{name}")

    def _file(self, name: str) -> BinaryIO:
        if name not in self._files:
            self._files[name] = self._of(name).open("wb", 1 << 18)
        return self._files[name]

    def close(self) -> None:
        for file in self._files.values():
            file.close()
