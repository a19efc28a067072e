"""Losses: some lines of plain torch each, from the labels' log-probabilities to a sum over them.

A loss is a sum, and whoever calls `forward_backward` owns the denominator: what a step divides by is known
only when all its micro-batches are. Imports `training.batches`. Begin with `cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from training.batches import MicroBatch

Loss = Callable[[Tensor, MicroBatch], Tensor]
"""(S,) float32 and where they come from, to a scalar."""
