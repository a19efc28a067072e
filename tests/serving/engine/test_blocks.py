"""A decoder's blocks beside transformers', whose code they stand for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from modeling.base_folder import SUPPORTED_MODEL_TYPES
from serving.engine import attention, blocks
from serving.engine.attention import AttentionStep, Chunk
from serving.engine.kv.cache import CacheKey, KvCache
from serving.engine.kv.pool import KvPool
from serving.engine.slots.lora import AdapterSlots
from tests.modeling.models import random_model

IDS = [list(range(1, 20)), list(range(30, 37))]


def pair(model_type: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A random model as transformers computes it, and as an engine does; norms' weights are not just ones."""
    theirs: Any = random_model(model_type)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(False)
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    theirs.to(dtype).eval()
    ours = copy.deepcopy(theirs)
    ours.config._attn_implementation = attention.NAME
    AdapterSlots(ours, 1)
    blocks.put_in(ours)
    return theirs, ours


@torch.inference_mode()
def theirs_of(model: Any) -> Tensor:
    return torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in IDS])


@torch.inference_mode()
def ours_of(model: Any) -> Tensor:
    """First what is before the last two tokens, then these, then a step of single tokens."""
    cache = KvCache(
        KvPool(model.config, size_bytes=1 << 22, dtype=model.dtype, device=model.device)
    )
    rows = [cache.open(CacheKey(None, ""), ids) for ids in IDS]
    found: list[list[Tensor]] = [[], []]
    for left in (3, 1, 0):
        chunks = [Chunk(row, row.num_computed, len(row.tokens) - left) for row in rows if row]
        out = model(
            input_ids=torch.tensor([[i for c in chunks for i in c.row.tokens[c.start : c.end]]]),
            position_ids=torch.tensor([[i for c in chunks for i in range(c.start, c.end)]]),
            use_cache=False,
            step=AttentionStep(cache.pool, chunks),
        )
        lengths = [chunk.end - chunk.start for chunk in chunks]
        for of_row, chunk, logits in zip(
            found, chunks, torch.split(out.logits[0], lengths), strict=True
        ):
            of_row.append(logits)
            chunk.row.num_computed = chunk.end
    return torch.cat([each for of_row in found for each in of_row])


def distance(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("model_type", sorted(SUPPORTED_MODEL_TYPES))
def test_a_family_computes_what_transformers_does(model_type: str) -> None:
    """In fp32 but for the last digits; in bf16 no worse than transformers, beside fp32."""
    theirs, ours = pair(model_type, torch.float32)
    exact = theirs_of(theirs)
    assert_close(ours_of(ours), exact, atol=1e-4, rtol=1e-4)
    layer = ours.base_model.layers[0]
    assert isinstance(layer.self_attn, blocks.JointAttention)
    assert isinstance(layer.mlp, blocks.JointMlp)
    norms = [module for name, module in ours.named_modules() if name.endswith("norm")]
    assert norms
    assert all(isinstance(norm, blocks.EarlyRoundingNorm) for norm in norms)
    theirs, ours = pair(model_type, torch.bfloat16)
    assert distance(ours_of(ours), exact) <= 1.3 * distance(theirs_of(theirs), exact) + 1e-3


def test_what_is_not_known_keeps_its_own_code() -> None:
    theirs: Any = random_model("llama")
    theirs.eval()
    for layer in theirs.base_model.layers:
        layer.mlp.act_fn = nn.GELU()

        class OtherAttention(type(layer.self_attn)):  # type: ignore[misc]
            pass

        layer.self_attn.__class__ = OtherAttention
    ours = copy.deepcopy(theirs)
    ours.config._attn_implementation = attention.NAME
    AdapterSlots(ours, 1)
    blocks.put_in(ours)
    assert not any(isinstance(m, (blocks.JointMlp, blocks.JointAttention)) for m in ours.modules())
    assert_close(ours_of(ours), theirs_of(theirs), atol=1e-4, rtol=1e-4)
