"""Noise that keeps a job from learning its rows by heart: LoRA's dropout, and NEFTune's on embeddings.

It is there in the passes that learn, not in those that measure. Tokens that the rows of a micro-batch share are
computed once, and so have the same noise for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.noise import Dropout, Noise
from modeling.trainable.lora import LoraLinear

from .batches import MicroBatch
from .messages import TrainConfig


class Regularization:
    """In the model from construction to `close`; the model bears what is to be trained already."""

    def __init__(self, model: nn.Module, embedding: nn.Module, config: TrainConfig) -> None:
        self._noise = Noise(config.seed)
        self._alpha = config.neftune_noise_alpha
        self._batch: MicroBatch | None = None
        self._hook = embedding.register_forward_hook(self._add) if self._alpha else None
        if config.dropout:
            for name, module in model.named_modules():
                if isinstance(module, LoraLinear):
                    module.dropout = Dropout(self._noise, name, config.dropout)

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()

    @contextmanager
    def drawn(self, batch: MicroBatch, step: int, number: int) -> Iterator[None]:
        """There is noise within, for the micro-batch of that number of the step."""
        self._batch = batch
        try:
            with self._noise.drawn(step, number):
                yield
        finally:
            self._batch = None

    def _add(self, module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:  # noqa: ARG002 -- torch's signature
        """embedded (1, T, D)"""
        generator = self._noise.generator("embedding", embedded.device)
        if generator is None or self._batch is None:
            return embedded
        uniform = torch.empty(embedded.shape, device=embedded.device)
        uniform.uniform_(-1, 1, generator=generator)
        bounds = _bounds(self._batch, self._alpha, embedded.shape[-1]).to(embedded.device)
        # A prefix's places, of which nothing is read, come before the batch's own.
        bounds = F.pad(bounds, (embedded.shape[1] - len(bounds), 0))
        return embedded + (uniform * bounds[None, :, None]).to(embedded.dtype)


def _bounds(batch: MicroBatch, alpha: float, hidden_size: int) -> Tensor:
    """(T,) alpha / sqrt(L · D) for the tokens of a row of length L; shared ones go by the mean of their rows."""
    layout = batch.layout
    by_segment: list[list[float]] = [[] for _ in layout.parents]
    for path, length in zip(layout.paths, layout.sequence_lengths, strict=True):
        for each in path:
            by_segment[each].append(alpha / math.sqrt(length * hidden_size))
    means = torch.tensor([sum(bounds) / len(bounds) for bounds in by_segment])
    return means.repeat_interleave(torch.tensor(layout.lengths))
