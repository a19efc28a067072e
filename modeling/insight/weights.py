"""How large what was learnt is beside the base's weights, in how many directions it lies, and whether those are the base's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modeling.artifacts.artifact import Artifact

from .base_weights import BaseWeights
from .changes import Change, changes, names_of
from .factored import Factored

MAX_SHOWN_VALUES = 64
"""Singular values of a weight."""

Json = dict[str, Any]
OnProgress = Callable[[float], None]


def measure(artifact: Artifact, base: BaseWeights, seed: int, on_progress: OnProgress) -> Json:
    """By weight, with what chance gives beside it. Raises NotMeasurable."""
    names = names_of(artifact)
    measured = []
    for change in changes(artifact, base, names):
        measured.append(of_change(change, seed))
        on_progress(len(measured) / len(names))
    return {"kind": artifact.kind, "seed": seed, "weights": measured}


def of_change(change: Change, seed: int) -> Json:
    base_norm = float(change.weight.norm())
    found: Json = {
        "name": change.name,
        "block": change.block,
        "projection": change.projection,
        "shape": list(change.weight.shape),
        "norm": change.norm,
        "base_norm": base_norm,
        "relative_norm": change.norm / base_norm if base_norm else None,
    }
    if change.factored is None:
        is_matrix = change.weight.ndim == 2
        return found | {"left_out": "too large" if is_matrix else "no matrix"}
    found |= _spectrum(change.factored)
    found["values"] = change.factored.values[:MAX_SHOWN_VALUES].tolist()
    found["amplification"] = change.factored.amplification(change.weight)
    by_chance = change.shuffled(seed)
    turned = change.factored.turned(seed, change.name)
    found["null"] = {
        **(_spectrum(by_chance) if by_chance is not None else {}),
        "amplification": turned.amplification(change.weight),
    }
    return found


def _spectrum(factored: Factored) -> Json:
    return {
        "rank": factored.rank,
        "stable_rank": factored.stable_rank,
        "effective_rank": factored.effective_rank,
    }
