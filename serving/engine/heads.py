"""Heads: output layers of a few rows, which read the last hidden state of a text in the place of the base's own.

Dimensions: N rows of hidden states, D model, K rows of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .slots.linear import put
from .slots.lora import Adapter


@dataclass(frozen=True, eq=False)
class Head:
    weight: Tensor
    """(K, D) in fp32, where the model is: of a few rows that costs nothing, also where that computes in bf16."""
    names: tuple[str, ...] = ()
    """What each row stands for; none where nobody needs to know."""


@dataclass(frozen=True, eq=False)
class HeadedAdapter:
    """An adapter, and the head that was trained behind it."""

    adapter: Adapter
    head: Head

    @property
    def id(self) -> str:
        return self.adapter.id

    @property
    def size_bytes(self) -> int:
        return self.adapter.size_bytes + self.head.weight.numel() * self.head.weight.itemsize


class HeadedOutput(nn.Module):
    """A model's output layer, and for some rows of a step the heads that read them instead."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self._heads: list[Head | None] = []
        self._read: list[list[float]] = []

    @classmethod
    def put_into(cls, model: PreTrainedModel) -> HeadedOutput:
        """In the place of the model's output layer, which it then is."""
        layer = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        (name,) = (name for name, module in model.named_modules() if module is layer)
        output = cls(layer)
        put(model, name, output)
        return output

    def expect(self, heads: Sequence[Head | None]) -> None:
        """Who reads each of the coming step's rows; None: the output layer itself."""
        self._heads = list(heads)
        self._read = []

    def forward(self, hidden: Tensor) -> Tensor:
        """(1, N, D) -> logits of the rows that no head reads, (1, fewer, V)"""
        rows: dict[Head, list[int]] = {}
        for row, head in enumerate(self._heads):
            if head is not None:
                rows.setdefault(head, []).append(row)
        if not rows:
            return self.layer(hidden)  # type: ignore[no-any-return]
        found: dict[int, list[float]] = {}
        for head, places in rows.items():
            values = hidden[0, places].float() @ head.weight.T  # (n, K)
            found |= zip(places, values.tolist(), strict=True)
        self._read = [found[row] for row in sorted(found)]
        others = [row for row, head in enumerate(self._heads) if head is None]
        logits: Tensor = self.layer(
            hidden[:, torch.tensor(others, dtype=torch.long, device=hidden.device)]
        )
        return logits

    def read(self) -> list[list[float]]:
        """What the heads made of their rows, in the rows' order."""
        return self._read
