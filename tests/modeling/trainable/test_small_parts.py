"""In bf16 what an adapter adds arrives, however small it is beside the base's output.

A number in bf16 has eight bits. What is added to one that is rounded already, and is less than half the distance to the next one,
is gone, so that an adapter would do nothing until it is large.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modeling.noise import Dropout, Noise
from modeling.trainable.fused_lora import FusedLinear
from modeling.trainable.lora import LoraLinear, project

NUM_TOKENS, SIZE, RANK = 64, 96, 4
SHARES = (1e-2, 1e-3, 1e-4)
"""Of the base's output."""


def _small_lora(share: float, *, bias: bool = False) -> LoraLinear:
    linear = nn.Linear(SIZE, SIZE, bias=bias)
    nn.init.normal_(linear.weight, std=SIZE**-0.5)
    module = LoraLinear(linear.to(torch.bfloat16).requires_grad_(False), RANK, 1.0)
    # Powers of two, which bf16 holds exactly: only sums are rounded.
    for parameter, size in ((module.lora_A, 2.0**-3), (module.lora_B, share)):
        signs = torch.randn_like(parameter).sign()
        parameter.data.copy_(signs * 2.0 ** round(torch.tensor(size).log2().item()))
    return module


def _arrived(with_it: Tensor, without_it: Tensor, small: Tensor) -> float:
    """By how much of `small` (exact) two numbers differ, on average; the second one is exact, too."""
    difference = with_it.double() - without_it
    return ((difference * small).sum() / small.square().sum()).item()


def _inputs() -> Tensor:
    return torch.randn(NUM_TOKENS, SIZE).bfloat16().requires_grad_()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["alone", "bias", "together", "fused", "dropout"])
def test_what_an_adapter_adds_is_in_the_output(kind: str, share: float) -> None:
    module = _small_lora(share, bias=kind == "bias")
    x = _inputs()
    factors = torch.ones_like(x)
    y: Tensor
    match kind:
        case "together":
            _, y = project(x, _small_lora(share), module)
        case "fused":
            y = FusedLinear(module.base, [(0, NUM_TOKENS, module)])(x)
        case "dropout":
            noise = Noise(1)
            module.dropout = Dropout(noise, "layer", 0.5)
            with noise.drawn(1, 1):
                y = module(x)
            with noise.drawn(1, 1):
                drawn = module.dropout.factors(x)
            assert drawn is not None
            factors = drawn
        case _:
            y = module(x)
    base = nn.functional.linear(x.double(), module.base.weight.double())
    if module.base.bias is not None:
        base = base + module.base.bias.double()
    small = (x * factors).double() @ module.lora_A.double().t() @ module.lora_B.double().t()
    # Over 6,144 numbers the noise of rounding is about a fortieth of the smallest share.
    assert _arrived(y, base, small) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["alone", "together", "fused"])
def test_what_an_adapter_adds_is_in_the_gradient_of_its_input(kind: str, share: float) -> None:
    modules = [_small_lora(share) for _ in range(2 if kind == "together" else 1)]
    x = _inputs()
    if kind == "fused":
        ys: tuple[Tensor, ...] = (FusedLinear(modules[0].base, [(0, NUM_TOKENS, modules[0])])(x),)
    else:
        ys = project(x, *modules)
    grads = [torch.randn(NUM_TOKENS, SIZE).bfloat16() for _ in ys]
    torch.autograd.backward(ys, grads)
    assert x.grad is not None
    base = torch.zeros(NUM_TOKENS, SIZE, dtype=torch.float64)
    small = torch.zeros_like(base)
    for module, grad in zip(modules, grads, strict=True):
        base += grad.double() @ module.base.weight.double()
        small += grad.double() @ module.lora_B.double() @ module.lora_A.double()
    assert _arrived(x.grad, base, small) == pytest.approx(1, abs=0.25)
