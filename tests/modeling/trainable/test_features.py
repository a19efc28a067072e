from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.trainable.features import FeatureCache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_kept_comes_back_bit_for_bit_and_leaves_no_file(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    cache = FeatureCache(tmp_path)
    sequences = [torch.arange(length) for length in (3, 7, 1)]
    features = [torch.randn(len(ids), 5).to(dtype) for ids in sequences]
    for ids, states in zip(sequences, features, strict=True):
        assert cache.get(ids, states) is None
        cache.put(ids, states)
    for ids, states in zip(sequences, features, strict=True):
        kept = cache.get(ids, states)
        assert kept is not None
        assert torch.equal(kept, states)
    assert list(tmp_path.iterdir()) == []  # whatever ends the process takes it away
    cache.close()


def test_what_has_no_room_is_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=4 * 5 * 4)
    like = torch.zeros(4, 5)
    for first in range(3):
        cache.put(torch.arange(first, first + 4), like + first)
    kept = [cache.get(torch.arange(first, first + 4), like) for first in range(3)]
    assert [states is not None for states in kept] == [True, False, False]
    cache.close()


def test_a_full_disk_keeps_no_more_and_breaks_nothing(tmp_path: Path) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, content: bytes) -> None:
            self._file.write(content[:3])
            raise OSError(errno.ENOSPC, "no space left on device")

    cache = FeatureCache(tmp_path)
    like = torch.ones(2, 5)
    cache.put(torch.arange(2), like)
    whole = cache._file
    cache._file = Full(whole)  # type: ignore[assignment]
    cache.put(torch.arange(3, 5), like)
    cache._file = whole
    cache.put(torch.arange(6, 8), like)
    assert cache.get(torch.arange(3, 5), like) is None
    assert cache.get(torch.arange(6, 8), like) is None
    kept = cache.get(torch.arange(2), like)
    assert kept is not None
    assert torch.equal(kept, like)
    cache.close()
