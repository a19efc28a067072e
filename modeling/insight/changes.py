"""What a tuned model changes of its base's weights, a weight at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from modeling.artifacts import classifier, head, lora
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.merge import KINDS as MERGEABLE_KINDS

from .base_weights import BaseWeights
from .factored import Factored, shuffled

MAX_DENSE_NUMBERS = 6_000_000
"""Of a weight whose change has no factors: singular values of larger ones take minutes."""


class NotMeasurable(Exception):
    """Models of this kind have nothing to be measured here; the message says why."""


@dataclass(frozen=True)
class Change:
    name: str
    """Of the weight, as the base has it."""
    weight: Tensor
    """The base's (O, I), or (O,) of a norm, in float64."""
    factored: Factored | None
    """None where it would take too long, or is no matrix."""
    norm: float
    factors: tuple[Tensor, Tensor, float] | None = None
    """A, B and the scale, where it is a product of such."""

    @property
    def block(self) -> int | None:
        """The number of the layer that it is in."""
        parts = self.name.split(".")
        return int(parts[2]) if parts[1:2] == ["layers"] else None

    @property
    def projection(self) -> str:
        """q_proj and the like."""
        return self.name.removesuffix(".weight").rpartition(".")[2]

    def shuffled(self, seed: int) -> Factored | None:
        """What factors of the same numbers in places of chance would make."""
        if self.factors is None:
            return None
        a, b, scale = self.factors
        return Factored.of_factors(
            shuffled(a, seed, f"{self.name}/A"), shuffled(b, seed, f"{self.name}/B"), scale
        )


def adapter_of(artifact: Artifact) -> lora.LoadedAdapter | None:
    """Of a LoRA adapter, also one with a head behind it."""
    if artifact.kind == classifier.KIND:
        artifact = head.adapter_of(artifact)
    return lora.layers(artifact) if artifact.kind == lora.KIND else None


def check_changes(artifact: Artifact) -> None:
    """Raises NotMeasurable."""
    if artifact.kind not in MERGEABLE_KINDS | {classifier.KIND}:
        raise NotMeasurable(
            f"a model of the kind '{artifact.kind}' leaves the base's weights as they are: it has no change to measure"
        )


def names_of(artifact: Artifact) -> list[str]:
    """The weights that it changes, in the order of the base's layers. Raises NotMeasurable."""
    check_changes(artifact)
    adapter = adapter_of(artifact)
    names = artifact.tensors if adapter is None else [f"{module}.weight" for module in adapter]
    return sorted(names, key=_order)


def changes(artifact: Artifact, base: BaseWeights, names: list[str]) -> Iterator[Change]:
    adapter = adapter_of(artifact)
    for name in names:
        weight = base.weight(name)
        if adapter is not None:
            factors = adapter[name.removesuffix(".weight")]
            factored = Factored.of_factors(*factors)
            yield Change(name, weight, factored, factored.norm, factors)
            continue
        difference = artifact.tensors[name].double() - weight
        is_small = difference.ndim == 2 and difference.numel() <= MAX_DENSE_NUMBERS
        yield Change(
            name,
            weight,
            Factored.of_matrix(difference) if is_small else None,
            float(difference.norm()),
        )


def _order(name: str) -> tuple[int, str]:
    parts = name.split(".")
    return (int(parts[2]) if parts[1:2] == ["layers"] else -1, name)
