"""Adapters on tiny-random, and what plain, dense computation makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from modeling.artifacts import lora
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.lora import TARGET_MODULES, AdapterConfig, peft_name
from modeling.insight.base_weights import BaseWeights
from modeling.insight.tuned import TokenRow
from tests.modeling.models import tiny_model

Adjust = Callable[[str, Tensor], Tensor]


def adapter(
    base_path: Path, *, rank: int = 4, size: float = 1.0, seed: int = 0, scale: float = 0.5
) -> Artifact:
    """A random one on every layer."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, (num_out, num_in) in lora.linear_shapes(
        AutoConfig.from_pretrained(base_path)
    ).items():
        tensors[peft_name(name, "A")] = torch.randn(rank, num_in, generator=generator) / num_in**0.5
        b = torch.randn(num_out, rank, generator=generator) / rank**0.5
        tensors[peft_name(name, "B")] = b * size
    config = AdapterConfig(
        rank, rank * scale, TARGET_MODULES, base_model_name_or_path="tiny-random"
    )
    return lora.artifact(config, tensors)


def dense(artifact: Artifact) -> dict[str, Tensor]:
    """ΔW by the name of the weight, in float64."""
    return {
        f"{module}.weight": scale * b.double() @ a.double()
        for module, (a, b, scale) in lora.layers(artifact).items()
    }


def merged(
    base_path: Path, artifact: Artifact, factor: Callable[[int, str], float] = lambda _, __: 1.0
) -> PreTrainedModel:
    """The base with each ΔW times its factor, by layer and projection, added to its weight."""
    model = tiny_model(base_path)
    weights = dict(model.named_parameters())
    for name, change in dense(artifact).items():
        parts = name.split(".")
        weights[name].data += (factor(int(parts[2]), parts[-2]) * change).float()
    return model


def logprobs(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """(T - 1, V): of what may follow each token."""
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        return logits.double().log_softmax(-1)


def nll(model: PreTrainedModel, row: TokenRow) -> float:
    """Σ weight · -log p of a row."""
    found = logprobs(model, list(row.ids))
    return -sum(
        row.weights[place] * float(found[place - 1, row.ids[place]]) for place in row.scored
    )


def rows() -> list[TokenRow]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for number, length in enumerate((9, 21, 14)):
        ids = torch.randint(256, (length,), generator=generator).tolist()
        weights = [0.0] * 4 + [1.0] * (length - 5) + [0.5]
        made.append(TokenRow(ids, weights, f"row {number}"))
    return made


def weights_of(base_path: Path, kept: Path) -> BaseWeights:
    return BaseWeights(base_path, kept)


def silent(_: float) -> None:
    pass
