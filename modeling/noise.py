"""Randomness in training without a state: each draw is a function of the seed, of when it is made and what for.

So a run that goes on from a checkpoint draws what it would have drawn, whatever else the process did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Noise:
    """There is some within `drawn`, and none elsewhere: what is measured is the model as it is."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._when: str | None = None

    @contextmanager
    def drawn(self, step: int, number: int) -> Iterator[None]:
        """For the forward pass of that number within the step."""
        self._when = f"{step}/{number}"
        try:
            yield
        finally:
            self._when = None

    def generator(self, what: str, device: torch.device) -> torch.Generator | None:
        """The same one each time it is asked for within a pass, or None outside of them."""
        if self._when is None:
            return None
        digest = hashlib.sha256(f"{self._seed}/{self._when}/{what}".encode()).digest()
        generator = torch.Generator(device)
        return generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))


class Dropout:
    """For one layer: what it reads is left out by chance, and the rest counts the more."""

    def __init__(self, noise: Noise, layer: str, share: float) -> None:
        self._noise = noise
        self._layer = layer
        self._kept = 1 - share

    def factors(self, x: Tensor) -> Tensor | None:
        """What to multiply x by: 0 or 1 / (1 - share); None where nothing is left out."""
        generator = self._noise.generator(self._layer, x.device)
        if generator is None:
            return None
        kept = torch.empty(x.shape, device=x.device).bernoulli_(self._kept, generator=generator)
        return (kept / self._kept).to(x.dtype)
