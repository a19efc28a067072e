"""Two LoRA adapters as one: what both of them add to a base, exactly."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

from modeling.artifacts import lora
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.lora import AdapterConfig, peft_name

from .lora import initial_A


def stacked(
    first: Artifact, second: Artifact, base_config: PretrainedConfig, seed: int
) -> Artifact:
    """Its rank is the sum of their highest ones, and its targets are all that one of them has.

    Where they have less, A is filled up as a new adapter begins and B with zeros: it adds nothing, and can learn. The
    adapters' scales go into B.
    """
    both = (lora.layers(first), lora.layers(second))
    reached = {module.rpartition(".")[2] for layers in both for module in layers}
    targets = tuple(name for name in lora.TARGET_MODULES if name in reached)
    rank = sum(max(a.shape[0] for a, _, _ in layers.values()) for layers in both)
    tensors: dict[str, Tensor] = {}
    for module, (num_out, num_in) in lora.linear_shapes(base_config).items():
        if module.rpartition(".")[2] not in targets:
            continue
        a, b = initial_A(seed, module, rank, num_in), torch.zeros(num_out, rank)
        row = 0
        for layers in both:
            if module not in layers:
                continue
            own_a, own_b, scale = layers[module]
            end = row + own_a.shape[0]
            a[row:end], b[:, row:end] = own_a, own_b * scale
            row = end
        tensors |= {peft_name(module, "A"): a, peft_name(module, "B"): b}
    base, revision = second.base_model, second.base_revision
    config = AdapterConfig(rank, float(rank), targets, base, revision)
    return lora.artifact(config, tensors)
