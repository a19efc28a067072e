"""Which examples a step trains on, and how they lie in memory: end to end, without padding.

Examples often begin alike, with the same system message. What all of a step's examples begin with lies in
a batch once: a token's hidden states depend on what is before it alone, so they are the same in each.

Dimensions: B examples, T tokens of a batch, S supervised positions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dataset.examples import Example

MIN_SHARED_TOKENS = 8
"""Fewer cost more to share than to compute again."""
MAX_SHARING = 4
"""Attention keeps the shared tokens' keys once for each example: so many times the budget at most."""


@dataclass(frozen=True)
class Batch:
    """Packed examples, one forward pass. Raises ValueError when its parts do not fit together."""

    input_ids: Tensor  # (T,) int64: the shared tokens, then each example's own
    position_ids: (
        Tensor  # (T,) int64, from 0 in the shared tokens and on from there in each example
    )
    num_shared: int  # tokens that every example begins with
    cu_seqlens: tuple[int, ...]  # B + 1 offsets of the examples' own tokens, from num_shared to T
    positions: Tensor  # (S,) int64: the indices into T whose next token is supervised
    labels: Tensor  # (S,) int64: those next tokens
    weights: Tensor  # (S,) float32, above 0

    def __post_init__(self) -> None:
        num_tokens, num_supervised = len(self.input_ids), len(self.positions)
        if self.cu_seqlens[0] != self.num_shared or self.cu_seqlens[-1] != num_tokens:
            raise ValueError("cu_seqlens must run from num_shared to the number of tokens")
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
            self.num_shared,
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
    order: list[int] = permutation(num_examples, seed, epoch)[first : first + batch_size].tolist()
    return order


@lru_cache(maxsize=2)
def permutation(num_examples: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]:
    """The indices sorted by a hash of (seed, epoch, index): no generator, no hidden state.

    Of millions of examples an array takes a tenth of what a list of numbers would.
    """

    def rank(index: int) -> int:
        digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8])

    ranks = np.fromiter(map(rank, range(num_examples)), np.uint64, num_examples)
    return np.argsort(ranks, kind="stable").astype(np.uint32)


def micro_batches(examples: Sequence[Example], micro_batch_tokens: int) -> list[Batch]:
    """The examples in as few forward passes as the token budget allows, of about equal size.

    An example longer than the budget gets a pass of its own.
    """
    lengths = [_input_length(example) for example in examples]
    num_shared = _num_shared(examples)
    if num_shared >= micro_batch_tokens:
        num_shared = 0
    # Of the budget beside the shared tokens, and of what attention may hold, whichever is more.
    budget = micro_batch_tokens - num_shared
    share = budget / (MAX_SHARING * micro_batch_tokens) if num_shared else 0
    costs = [max(n - num_shared, math.ceil(n * share)) for n in lengths]
    return [
        _lay_out(
            [examples[index] for index in group],
            [lengths[index] for index in group],
            num_shared if len(group) > 1 else 0,
        )
        for group in _groups(costs, budget)
    ]


def _input_length(example: Example) -> int:
    """Tokens worth computing: what follows the last supervised token cannot change the loss."""
    return int(example.weights.nonzero()[0][-1])


def _num_shared(examples: Sequence[Example]) -> int:
    """How many tokens all the examples begin with, up to the first position that predicts a supervised one."""
    limit = min(int(example.weights[1:].nonzero()[0][0]) for example in examples)
    beginnings = np.stack([example.input_ids[:limit] for example in examples])
    differs = (beginnings != beginnings[0]).any(axis=0)
    num_shared = int(differs.argmax()) if differs.any() else limit
    return num_shared if len(examples) > 1 and num_shared >= MIN_SHARED_TOKENS else 0


def _groups(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Dearest first into the emptiest group, with the fewest groups that keep to the budget."""
    dearest_first = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    limit = max(budget, max(costs))
    for num_groups in range(math.ceil(sum(costs) / limit), len(costs)):
        groups: list[list[int]] = [[] for _ in range(num_groups)]
        totals = [0] * num_groups
        for index in dearest_first:
            emptiest = totals.index(min(totals))
            groups[emptiest].append(index)
            totals[emptiest] += costs[index]
        if max(totals) <= limit:
            return groups
    return [[index] for index in dearest_first]


def _lay_out(examples: Sequence[Example], lengths: Sequence[int], num_shared: int) -> Batch:
    """Position t of an example predicts its token t + 1."""
    pairs = list(zip(examples, lengths, strict=True))
    offsets = list(itertools.accumulate((n - num_shared for n in lengths), initial=num_shared))
    shared = examples[0].input_ids[:num_shared]
    # Nothing is supervised at the shared positions.
    inputs = [example.input_ids[num_shared:length] for example, length in pairs]
    targets = [example.input_ids[num_shared + 1 : length + 1] for example, length in pairs]
    weights = [example.weights[num_shared + 1 : length + 1] for example, length in pairs]
    all_inputs = np.concatenate([shared, *inputs])
    all_targets = np.concatenate([shared, *targets])
    all_weights = np.concatenate([np.zeros(num_shared, dtype=np.float32), *weights])
    positions = all_weights.nonzero()[0]
    return Batch(
        input_ids=torch.from_numpy(all_inputs.astype(np.int64)),
        position_ids=torch.cat(
            [torch.arange(num_shared), *(torch.arange(num_shared, length) for length in lengths)]
        ),
        num_shared=num_shared,
        cu_seqlens=tuple(offsets),
        positions=torch.from_numpy(positions),
        labels=torch.from_numpy(all_targets[positions].astype(np.int64)),
        weights=torch.from_numpy(all_weights[positions]),
    )
