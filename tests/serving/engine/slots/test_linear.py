from __future__ import annotations

import pytest
import torch
from torch import nn

from serving.engine.slots import linear
from serving.engine.slots.linear import Fused, PackedLinear, Part, fused_names


@pytest.mark.parametrize("num_tokens", [0, 1, 16, 100])
@pytest.mark.parametrize("biases", [(True, True), (False, False), (True, False)])
def test_packed_linear_computes_what_its_layers_do(
    num_tokens: int, biases: tuple[bool, bool]
) -> None:
    linears = [nn.Linear(64, size, bias=b) for size, b in zip((48, 16), biases, strict=True)]
    x = torch.randn(1, num_tokens, 64)
    with torch.inference_mode():
        expected = torch.cat([layer(x) for layer in linears], -1)
        torch.testing.assert_close(PackedLinear(linears)(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [1, 16, 100])
def test_what_is_gained_is_summed_up_with_it(
    num_tokens: int, dtype: torch.dtype, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_packed:
        monkeypatch.setattr(linear, "_packs", lambda _: False)
    layer = nn.Linear(64, 48).to(dtype)
    x, gained = torch.randn(1, num_tokens, 64).to(dtype), torch.randn(1, num_tokens, 48).to(dtype)
    with torch.inference_mode():
        packed = PackedLinear([layer])
        expected = (layer.float()(x.float()) + gained).to(dtype)
        got = packed(x, gained.clone())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


class Doubling(nn.Module):
    """Counts its calls."""

    num_calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        return torch.cat([x, 2 * x], -1)


def test_parts_of_one_input_are_computed_once() -> None:
    layer = Doubling()
    fused = Fused(layer, [3, 3])
    once, twice = Part(fused, 0), Part(fused, 1)
    for number in (1, 2):
        x = torch.full((1, 3), float(number))
        # In any order.
        assert torch.equal(twice(x), 2 * x)
        assert torch.equal(once(x), x)
        assert layer.num_calls == number


def test_part_asked_twice_is_computed_again() -> None:
    fused = Fused(Doubling(), [3, 3])
    first, x = Part(fused, 0), torch.ones(1, 3)
    assert torch.equal(first(x), first(x))
    other = torch.zeros(1, 3)
    assert torch.equal(first(other), other)


def test_siblings_of_one_input_are_fused() -> None:
    assert fused_names("a.b.v_proj") == ["a.b.q_proj", "a.b.k_proj", "a.b.v_proj"]
    assert fused_names("a.mlp.down_proj") == ["a.mlp.down_proj"]
