"""Models and adapters for tests, as plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from modeling.artifacts import full, model_tensors, output_layers
from modeling.artifacts.artifact import Artifact
from modeling.base import load_base
from modeling.trainable.lora import LoraLinear


@dataclass(frozen=True)
class Base:
    id: str
    source: str
    revision: str = ""


def tiny_model(path: Path, attn_implementation: str = "sdpa") -> PreTrainedModel:
    return load_base(path, precision="fp32", attn_implementation=attn_implementation)


def random_model(model_type: str) -> PreTrainedModel:
    """Of any supported architecture, with 64 tokens."""
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": None,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **sizes)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.train(False)
    return model


def randomise(modules: dict[str, LoraLinear], seed: int = 0) -> None:
    """Gives B values too: with B = 0 an adapter does nothing and A has no gradient."""
    generator = torch.Generator().manual_seed(seed)
    for lora in modules.values():
        lora.lora_B.data.normal_(0, 0.05, generator=generator)


def next_token_loss(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Mean cross-entropy of a (B, T) batch of whole sequences."""
    logits = model(input_ids=input_ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten()
    )


def token_ids(*shape: int, seed: int = 0, vocab_size: int = 256) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def backward(loss: Tensor) -> None:
    torch.autograd.backward(loss)


def with_output_layers(
    base_config: PretrainedConfig, base_tensors: Mapping[str, Tensor], artifact: Artifact
) -> Artifact:
    """The base with these output layers, as an artifact of the kind `full`."""
    config = output_layers.untied(base_config, train_head=artifact.spec["train_head"])
    tensors = {**base_tensors, **artifact.tensors}
    shapes = model_tensors.shapes_of(config)
    return full.artifact(config, {name: tensors[name] for name in shapes})
