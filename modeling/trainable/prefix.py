"""Prefix tuning: in front of every text lie virtual tokens, of which each layer knows a key and a value only.

They take places in the packed row, which all its sequences share, and attention sees the trained keys and values
there instead of what the base makes of those places. Trained they are fp32; attention computes in the precision of
the activations. Texts begin at position V.

The first virtual token stays as it is: attention puts on it what it has no use for, and learns badly once it moves.

Dimensions: T tokens, V virtual tokens, L layers, K key heads, D per head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling import attention
from modeling.artifacts import prefix as files
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.layout import Layout

from .trainable import Beginning, PackedRow, hidden_states

_STD = 0.02
"""Of what begins at random. Beside keys and values of size 1 it is next to nothing, yet no two are alike:
those that begin alike would stay so, for they get the same gradients."""


class PrefixTrainable:
    """`num_virtual_tokens` keys and values a layer, at random until `begin`: a function of the seed."""

    head = None
    output = None
    artifact_is_exact = True

    def __init__(self, model: PreTrainedModel, *, num_virtual_tokens: int, seed: int) -> None:
        if num_virtual_tokens < 2:
            raise ValueError(
                "a prefix has at least two virtual tokens, of which the first one stays"
            )
        self._model = model
        self._num_virtual_tokens = num_virtual_tokens
        self._is_aside = False
        initial = _random(num_virtual_tokens, *files.shape(model.config), seed)
        initial = initial.to(model.device)
        self._first = initial[..., :1, :].contiguous()  # (L, 2, K, 1, D)
        self._others = [nn.Parameter(layer[..., 1:, :].contiguous()) for layer in initial]
        self.parameters = {
            f"layers.{number}": parameter for number, parameter in enumerate(self._others)
        }

    def begin(self, beginning: Beginning) -> None:
        """Keys and values of a text, which say to the base what that text would, are the best beginning known."""
        input_ids = beginning(self._num_virtual_tokens).to(self._model.device)
        keys_values = _of_text(self._model, input_ids)
        text_length = keys_values.shape[3]
        initial = torch.cat([keys_values, self._keys_values()[..., text_length:, :]], dim=3)
        self._set(initial)

    def hidden_states(self, row: PackedRow) -> Tensor:
        if self._is_aside:
            return hidden_states(self._model, row)
        num, device = self._num_virtual_tokens, row.input_ids.device
        # Whatever stands in their places, nothing reads it.
        ids = torch.zeros(num, dtype=row.input_ids.dtype, device=device)
        positions = torch.arange(num, dtype=row.position_ids.dtype, device=device)
        longer = PackedRow(
            torch.cat([ids, row.input_ids]),
            torch.cat([positions, row.position_ids + num]),
            row.layout.behind(num),
        )
        by_layer = [
            torch.cat(layer, dim=2) for layer in zip(self._first, self._others, strict=True)
        ]
        return hidden_states(self._model, longer, by_layer)[num:]

    def refresh(self) -> None:
        """The model computes with the parameters themselves."""

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """The model is its plain self within."""
        previous, self._is_aside = self._is_aside, True
        try:
            yield
        finally:
            self._is_aside = previous

    def detach(self) -> None:
        """It was never part of the model."""

    def artifact(self, base_model: str) -> Artifact:
        """A copy of what is in training."""
        by_token = self._keys_values().permute(3, 0, 1, 2, 4)  # (V, L, 2, K, D)
        return files.artifact(by_token.to("cpu", copy=True).contiguous(), base_model)

    def take_over(self, artifact: Artifact) -> None:
        """Go on from what was trained before. Raises `ArtifactError`."""
        by_token = files.keys_values(artifact)
        if len(by_token) != self._num_virtual_tokens:
            raise ArtifactError(
                f"the prefix to go on from has {len(by_token)} virtual tokens, not {self._num_virtual_tokens}"
            )
        self._set(by_token.permute(1, 2, 3, 0, 4))

    def _keys_values(self) -> Tensor:
        """(L, 2, K, V, D)"""
        others = torch.stack([parameter.detach() for parameter in self._others])
        return torch.cat([self._first, others], dim=3)

    @torch.no_grad()
    def _set(self, keys_values: Tensor) -> None:
        """From (L, 2, K, V, D)."""
        self._first.copy_(keys_values[..., :1, :])
        for parameter, layer in zip(self._others, keys_values, strict=True):
            parameter.copy_(layer[..., 1:, :])


@torch.no_grad()
def _of_text(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Keys and values (L, 2, K, T, D) float32 of a text (T,)."""
    num_tokens = len(input_ids)
    positions = torch.arange(num_tokens, device=input_ids.device)
    with attention.segments(Layout.of_lengths([num_tokens])):
        output: Any = model.base_model(
            input_ids=input_ids[None], position_ids=positions[None], use_cache=True
        )
    # The later one of transformers' two names for it.
    cache = output.get("cache")
    layers = (output.past_key_values if cache is None else cache).layers
    return torch.stack([torch.cat([layer.keys, layer.values]) for layer in layers]).float()


def _random(num_tokens: int, num_layers: int, num_heads: int, head_dim: int, seed: int) -> Tensor:
    """(L, 2, K, V, D), of which each token's part in each layer is a function of its numbers and the seed."""
    values = torch.empty(num_layers, num_tokens, 2, num_heads, head_dim)
    for layer in range(num_layers):
        for index in range(num_tokens):
            digest = hashlib.sha256(f"{seed}/{layer}/{index}".encode()).digest()
            generator = torch.Generator().manual_seed(
                int.from_bytes(digest[:8], "big", signed=True)
            )
            values[layer, index].normal_(0, _STD, generator=generator)
    return values.permute(0, 2, 3, 1, 4)
