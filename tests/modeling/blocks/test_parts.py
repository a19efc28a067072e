"""Own forward passes and gradients beside transformers', whose code they stand for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from modeling import attention
from modeling.artifacts.lora import TARGET_MODULES
from modeling.base_folder import SUPPORTED_MODEL_TYPES
from modeling.blocks import parts
from modeling.blocks.rms_norm import rms_norm
from modeling.blocks.rotary import rotate
from modeling.blocks.swiglu import swiglu
from modeling.layout import Layout
from modeling.trainable import lora
from tests.modeling.models import random_model, randomise, token_ids

LENGTHS = (7, 12, 3)


def double(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("rounds_late", [False, True])
def test_gradients_of_rms_norm_equal_finite_differences(rounds_late: bool) -> None:
    def run(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, 1e-2, rounds_late=rounds_late)

    assert torch.autograd.gradcheck(run, (double(2, 3, 5), double(5)))
    assert torch.autograd.gradcheck(run, (double(2, 3, 5), double(5).detach()))
    assert torch.autograd.gradcheck(run, (double(2, 3, 5).detach(), double(5)))


def test_gradients_of_rotation_equal_finite_differences() -> None:
    angles = double(1, 4, 3).detach()
    cos, sin = (torch.cat([each, each], -1) for each in (angles.cos(), angles.sin()))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (double(1, 4, 2, 6),))


def test_gradients_of_swiglu_equal_finite_differences() -> None:
    assert torch.autograd.gradcheck(swiglu, (double(2, 5), double(5, 2).T))


@pytest.mark.parametrize("scales", [(2.0, 2.0, 2.0), (2.0, 0.5, 1.0)])
def test_layers_projected_together_are_what_each_is_by_itself(scales: Sequence[float]) -> None:
    torch.manual_seed(0)
    x = double(2, 3, 5)
    layers = []
    for number, scale in enumerate(scales):
        base = nn.Linear(5, 4 + number, bias=number == 1).double().requires_grad_(False)
        layer = lora.LoraLinear(base, rank=2 + number, scale=scale).double()
        layer.lora_A.data.normal_()
        layer.lora_B.data.normal_()
        layers.append(layer)
    parameters = [p for layer in layers for p in (layer.lora_A, layer.lora_B)]
    # A layer without an adapter between them.
    plain = nn.Linear(5, 3).double().requires_grad_(False)
    together = lora.project(x, layers[0], plain, *layers[1:])
    alone = [layer(x) for layer in (layers[0], plain, *layers[1:])]
    grads = [torch.randn_like(each) for each in alone]
    assert_close(list(together), alone)
    assert_close(
        torch.autograd.grad(together, (x, *parameters), grads),
        torch.autograd.grad(alone, (x, *parameters), grads),
    )


def pair(model_type: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A random model as transformers computes it, and with our parts; norms' weights are not just ones."""
    theirs: Any = random_model(model_type)
    theirs.config._attn_implementation = attention.NAME
    generator = torch.Generator().manual_seed(2)
    for name, parameter in theirs.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    theirs.to(dtype)
    ours = copy.deepcopy(theirs)
    parts.put_in(ours)
    return theirs, ours


def run(model: Any, trained: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states of a packed row, and the gradients of what trains."""
    model.zero_grad(set_to_none=True)
    ids = token_ids(1, sum(LENGTHS), vocab_size=64)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    with attention.segments(Layout.of_lengths(LENGTHS)):
        states = model.base_model(
            input_ids=ids, position_ids=positions, use_cache=False
        ).last_hidden_state
    grad = torch.randn(states.shape, generator=torch.Generator().manual_seed(1)).to(states.dtype)
    torch.autograd.backward(states, grad)
    return states.detach(), {
        name: each.grad for name, each in trained.items() if each.grad is not None
    }


def distance(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("with_adapters", [True, False])
@pytest.mark.parametrize("model_type", sorted(SUPPORTED_MODEL_TYPES))
def test_a_family_computes_what_transformers_does(model_type: str, with_adapters: bool) -> None:
    """In fp32 but for the last digits; in bf16 no worse than transformers, beside fp32."""
    results: dict[Any, tuple[Tensor, dict[str, Tensor]]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for who, model in zip(("theirs", "ours"), pair(model_type, dtype), strict=True):
            trained: dict[str, Tensor] = dict(model.named_parameters())
            if with_adapters:
                model.requires_grad_(False)
                modules = lora.attach(model, 4, 8.0, TARGET_MODULES, seed=1)
                randomise(modules)
                trained = dict(model.named_parameters())
            results[who, dtype] = run(model, trained)
    exact_states, exact = results["theirs", torch.float32]
    states, grads = results["ours", torch.float32]
    assert_close(states, exact_states)
    assert grads.keys() == exact.keys() != set()
    for name, grad in grads.items():
        assert distance(grad, exact[name]) < 1e-5, name
    theirs, ours = results["theirs", torch.bfloat16], results["ours", torch.bfloat16]
    assert distance(ours[0], exact_states) <= 1.3 * distance(theirs[0], exact_states) + 1e-3
    for name, grad in ours[1].items():
        bound = 1.3 * distance(theirs[1][name], exact[name]) + 5e-3
        assert distance(grad, exact[name]) <= bound, name


@pytest.mark.parametrize("model_type", sorted(SUPPORTED_MODEL_TYPES))
def test_every_part_of_every_family_has_its_place(model_type: str) -> None:
    _, ours = pair(model_type, torch.float32)
    layer = ours.base_model.layers[0]
    assert isinstance(layer.self_attn, parts.PackedAttention)
    assert isinstance(layer.mlp, parts.SwiGluMlp)
    norms = [module for name, module in ours.named_modules() if name.endswith("norm")]
    assert norms
    assert all(isinstance(norm, parts.RmsNorm) for norm in norms)


def test_what_is_not_known_keeps_its_own_code() -> None:
    model: Any = random_model("llama")
    layer = model.base_model.layers[0]

    class OtherNorm(type(layer.input_layernorm)):  # type: ignore[misc]
        pass

    layer.input_layernorm.__class__ = OtherNorm
    layer.mlp.act_fn = nn.GELU()
    other = layer.mlp.forward
    parts.put_in(model)
    assert type(layer.input_layernorm) is OtherNorm
    assert layer.mlp.forward == other
    assert isinstance(model.base_model.layers[1].mlp, parts.SwiGluMlp)
