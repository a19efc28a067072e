"""When a change was found: how much of the directions of one checkpoint another has.

On the side of B alone: A hardly leaves the random numbers that it began with, so any two checkpoints of a run agree there.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from modeling.artifacts.artifact import Artifact
from modeling.artifacts.lora import LoadedAdapter

from .changes import NotMeasurable, adapter_of
from .factored import RELATIVE_ZERO, generator_of
from .weights import OnProgress

Json = dict[str, Any]


def overlap(first: Tensor, second: Tensor) -> float | None:
    """‖U₁ᵀU₂‖² / r of what two matrices (O, R) reach, r the smaller rank: 1 is all, r / O what chance gives."""
    bases = _reached(first), _reached(second)
    rank = min(each.shape[1] for each in bases)
    return float((bases[0].T @ bases[1]).norm() ** 2) / rank if rank else None


def _reached(matrix: Tensor) -> Tensor:
    """An orthonormal basis (O, r)."""
    left, values, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = int((values > RELATIVE_ZERO * values[0]).sum()) if float(values[0]) else 0
    reached: Tensor = left[:, :rank]
    return reached


def measure(artifacts: Sequence[tuple[str, Artifact]], seed: int, on_progress: OnProgress) -> Json:
    """Of each two of these, named, in their order. Raises NotMeasurable."""
    if len(artifacts) < 2:
        raise NotMeasurable("there is one checkpoint only, with nothing to compare it with")
    adapters: list[LoadedAdapter] = []
    for name, artifact in artifacts:
        adapter = adapter_of(artifact)
        if adapter is None:
            raise NotMeasurable(
                f"{name} is of the kind '{artifact.kind}', which has no factors to compare"
            )
        adapters.append(adapter)
    pairs = list(itertools.combinations(range(len(adapters)), 2))
    measured = []
    for number, (first, second) in enumerate(pairs):
        names = artifacts[first][0], artifacts[second][0]
        measured.append(_of_pair(names, adapters[first], adapters[second], seed))
        on_progress((number + 1) / len(pairs))
    return {"side": "B", "seed": seed, "pairs": measured}


def _of_pair(
    names: tuple[str, str], first: LoadedAdapter, second: LoadedAdapter, seed: int
) -> Json:
    found: defaultdict[str, list[float]] = defaultdict(list)
    by_chance: list[float] = []
    for module in sorted(first.keys() & second.keys()):
        ours, theirs = first[module][1], second[module][1]
        value = overlap(ours, theirs)
        if value is None:
            continue
        found[module.rpartition(".")[2]].append(value)
        order = torch.randperm(len(theirs), generator=generator_of(seed, f"{module}/rows"))
        by_chance.append(overlap(ours, theirs[order]) or 0.0)
    every = [value for values in found.values() for value in values]
    return {
        "first": names[0],
        "second": names[1],
        "mean": fmean(every) if every else None,
        "null": fmean(by_chance) if by_chance else None,
        "by_projection": {name: fmean(values) for name, values in sorted(found.items())},
        "num_weights": len(every),
    }
