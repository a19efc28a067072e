"""Models and adapters for tests, as plain functions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.base import load_base
from modeling.trainable.lora import LoraLinear


@dataclass(frozen=True)
class Base:
    id: str
    source: str
    revision: str = ""


def tiny_model(path: Path, attn_implementation: str = "sdpa") -> PreTrainedModel:
    return load_base(path, precision="fp32", attn_implementation=attn_implementation)


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
