"""Bases that stay in memory from job to job, as many as a budget allows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from modeling.base import Precision

from .primitives import load_base

log = logging.getLogger(__name__)

_Key = tuple[Path, Precision]


@dataclass
class _Resident:
    model: PreTrainedModel
    size_bytes: int
    num_users: int = 0


class ResidentBases:
    """The least recently used base goes when another would not fit beside it.

    What jobs are using stays. A base that is too large alone is loaded alone.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._bases: dict[_Key, _Resident] = {}
        """The most recently used last."""

    @contextmanager
    def lent(self, path: Path, precision: Precision) -> Iterator[PreTrainedModel]:
        """Raises what `load_base` raises."""
        key = (path, precision)
        base = self._bases.pop(key, None)
        if base is None:
            self._make_room(_size_on_disk_bytes(path))
            model = load_base(path, precision)
            base = _Resident(model, _size_bytes(model))
        self._bases[key] = base
        # On disk it may have been smaller.
        base.num_users += 1
        self._make_room(0)
        try:
            yield base.model
        finally:
            base.num_users -= 1

    def _make_room(self, size_bytes: int) -> None:
        used_bytes = sum(base.size_bytes for base in self._bases.values())
        for key, base in list(self._bases.items()):
            if used_bytes + size_bytes <= self._budget_bytes:
                return
            if not base.num_users:
                log.info("%s leaves memory", key[0].name)
                del self._bases[key]
                used_bytes -= base.size_bytes


def _size_on_disk_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _size_bytes(model: PreTrainedModel) -> int:
    """A tensor that has two names counts once."""
    tensors = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    return sum(tensors.values())
