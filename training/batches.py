"""Which examples a step trains on, and how they lie in memory: end to end, without padding.

Dimensions: B examples, T tokens of all of them together, S supervised positions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .dataset import Example


@dataclass(frozen=True)
class Batch:
    """Packed examples, one forward pass. Raises ValueError when its parts do not fit together."""

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64, from 0 in each example
    cu_seqlens: tuple[int, ...]  # B + 1 offsets into T, from 0 to T
    positions: Tensor  # (S,) int64: the indices into T whose next token is supervised
    labels: Tensor  # (S,) int64: those next tokens
    weights: Tensor  # (S,) float32, above 0

    def __post_init__(self) -> None:
        num_tokens, num_supervised = len(self.input_ids), len(self.positions)
        if self.cu_seqlens[0] != 0 or self.cu_seqlens[-1] != num_tokens:
            raise ValueError("cu_seqlens must run from 0 to the number of tokens")
        if any(a >= b for a, b in itertools.pairwise(self.cu_seqlens)):
            raise ValueError("an example in the batch is empty")
        if len(self.position_ids) != num_tokens:
            raise ValueError("every token needs its position")
        if not 0 < num_supervised == len(self.labels) == len(self.weights):
            raise ValueError("every supervised position needs its label and its weight")
        if not bool((self.weights > 0).all()):
            raise ValueError("a supervised position weighs nothing")

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.cu_seqlens,
            self.positions.to(device),
            self.labels.to(device),
            self.weights.to(device),
        )


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    return math.ceil(num_examples / batch_size)


def epoch_of(step: int, num_examples: int, batch_size: int) -> int:
    """The 1-based epoch of a 1-based step."""
    return (step - 1) // steps_per_epoch(num_examples, batch_size) + 1


def examples_of_step(step: int, num_examples: int, batch_size: int, seed: int) -> list[int]:
    """The indices of the examples of a 1-based step: a function of its arguments alone.

    An epoch sees each example once; its last step may hold fewer than batch_size.
    """
    epoch = epoch_of(step, num_examples, batch_size)
    first = (step - 1) % steps_per_epoch(num_examples, batch_size) * batch_size
    return list(permutation(num_examples, seed, epoch)[first : first + batch_size])


@lru_cache(maxsize=2)
def permutation(num_examples: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The indices sorted by a hash of (seed, epoch, index): no generator, no hidden state."""

    def rank(index: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=16).digest()

    return tuple(sorted(range(num_examples), key=rank))


def micro_batches(examples: Sequence[Example], micro_batch_tokens: int) -> list[Batch]:
    """The examples in as few forward passes as the token budget allows, of about equal size.

    An example longer than the budget gets a pass of its own.
    """
    lengths = [_input_length(example) for example in examples]
    return [
        _lay_out([examples[index] for index in group], [lengths[index] for index in group])
        for group in _groups(lengths, micro_batch_tokens)
    ]


def _input_length(example: Example) -> int:
    """Tokens worth computing: what follows the last supervised token cannot change the loss."""
    return int(example.weights.nonzero()[0][-1])


def _groups(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Longest first into the emptiest group, with the fewest groups that keep to the budget."""
    longest_first = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    limit = max(budget, max(lengths))
    for num_groups in range(math.ceil(sum(lengths) / limit), len(lengths)):
        groups: list[list[int]] = [[] for _ in range(num_groups)]
        totals = [0] * num_groups
        for index in longest_first:
            emptiest = totals.index(min(totals))
            groups[emptiest].append(index)
            totals[emptiest] += lengths[index]
        if max(totals) <= limit:
            return groups
    return [[index] for index in longest_first]


def _lay_out(examples: Sequence[Example], lengths: Sequence[int]) -> Batch:
    """Position t of an example predicts its token t + 1."""
    pairs = list(zip(examples, lengths, strict=True))
    offsets = list(itertools.accumulate(lengths, initial=0))
    inputs = np.concatenate([example.input_ids[:length] for example, length in pairs])
    targets = np.concatenate([example.input_ids[1 : length + 1] for example, length in pairs])
    weights = np.concatenate([example.weights[1 : length + 1] for example, length in pairs])
    positions = weights.nonzero()[0]
    return Batch(
        input_ids=torch.from_numpy(inputs.astype(np.int64)),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=tuple(offsets),
        positions=torch.from_numpy(positions),
        labels=torch.from_numpy(targets[positions].astype(np.int64)),
        weights=torch.from_numpy(weights[positions]),
    )
