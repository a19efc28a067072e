"""A change of a weight, by its singular values and vectors. Of low-rank factors these are found without forming the change.

Everything is in float64: what is compared are small differences.

Dimensions: O out, I in, R rank of the factors, K singular values.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

RELATIVE_ZERO = 1e-9
"""Of the largest singular value: what is smaller is rounding."""


@dataclass(frozen=True)
class Factored:
    """left · diag(values) · rightᵀ, the values falling."""

    left: Tensor  # (O, K)
    values: Tensor  # (K,)
    right: Tensor  # (I, K)

    @classmethod
    def of_factors(cls, a: Tensor, b: Tensor, scale: float) -> Factored:
        """scale · B · A of a (R, I) and b (O, R)."""
        left, small_b = torch.linalg.qr(b.double())
        right, small_a = torch.linalg.qr(a.double().T)
        u, values, vh = torch.linalg.svd(scale * small_b @ small_a.T, full_matrices=False)
        return cls(left @ u, values, right @ vh.T)

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> Factored:
        u, values, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        return cls(u, values, vh.T)

    @property
    def norm(self) -> float:
        """Frobenius'."""
        return float(self.values.norm())

    @property
    def rank(self) -> int:
        """How many values are more than rounding."""
        return int((self.values > RELATIVE_ZERO * self.largest).sum()) if self.largest else 0

    @property
    def largest(self) -> float:
        return float(self.values[0]) if len(self.values) else 0.0

    @property
    def stable_rank(self) -> float:
        """Σσ² / σ₁²: in so many directions the energy would lie if it were spread evenly. 0 of no change."""
        return (self.norm / self.largest) ** 2 if self.largest else 0.0

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the values, each as a share of their sum; not of their squares. 0 of no change."""
        if not self.largest:
            return 0.0
        shares = self.values / self.values.sum()
        return math.exp(float(torch.special.entr(shares).sum()))

    def amplification(self, weight: Tensor) -> float | None:
        """‖ΔW‖ / ‖UᵀWV‖: how much more than the base (O, I) it does along its own directions. None where that does nothing."""
        rank = self.rank
        along = float((self.left[:, :rank].T @ weight @ self.right[:, :rank]).norm())
        return self.norm / along if along else None

    def turned(self, seed: int, name: str) -> Factored:
        """The same values in directions of chance: rows of both sides are permuted."""
        generator = generator_of(seed, f"{name}/turned")
        left = torch.randperm(len(self.left), generator=generator)
        right = torch.randperm(len(self.right), generator=generator)
        return Factored(self.left[left], self.values, self.right[right])


def shuffled(matrix: Tensor, seed: int, name: str) -> Tensor:
    """The same numbers in places of chance."""
    order = torch.randperm(matrix.numel(), generator=generator_of(seed, name))
    return matrix.reshape(-1)[order].view(matrix.shape)


def generator_of(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
