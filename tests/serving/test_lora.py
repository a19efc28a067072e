from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from serving.linear import PackedLinear
from serving.lora import Adapter, AdapterSlots, Run, SlotLinear
from tests.serving.parts import load_model

NAME = "model.layers.0.mlp.up_proj"
OTHER = "model.layers.1.self_attn.k_proj"


def adapter(adapter_id: str, rank: int, names: tuple[str, ...] = (NAME, OTHER)) -> Adapter:
    generator = torch.Generator().manual_seed(rank)
    sizes = {NAME: (64, 128), OTHER: (64, 32)}
    pairs = {
        name: (
            torch.randn(sizes[name][0], rank, generator=generator),
            torch.randn(rank, sizes[name][1], generator=generator),
        )
        for name in names
    }
    return Adapter(adapter_id, pairs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_tokens", [0, 1, 16, 100])
def test_packed_linear_computes_what_linear_does(bias: bool, num_tokens: int) -> None:
    linear = nn.Linear(64, 48, bias=bias)
    x = torch.randn(1, num_tokens, 64)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=1e-5, rtol=1e-5)


def test_bf16_linear_is_not_packed() -> None:
    linear = nn.Linear(64, 48).to(torch.bfloat16)
    packed = PackedLinear(linear)
    assert not packed.is_packed
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(packed(x), linear(x))


def test_each_run_gets_its_own_adapter_and_the_base_none(base_path: Path) -> None:
    model = load_model(base_path)
    slots = AdapterSlots(model, 2)
    a, b = adapter("adapter-a", 3), adapter("adapter-b", 5)
    slot_a, slot_b = slots.acquire(a), slots.acquire(b)
    assert slot_a is not None
    assert slot_b is not None
    layer = model.get_submodule(NAME)
    assert isinstance(layer, SlotLinear)
    x = torch.randn(1, 9, 64)
    with torch.inference_mode():
        base = layer.base(x)
        slots.set_runs([Run(slot_a, 2, 5), Run(slot_b, 5, 9)])
        out = layer(x)
    expected = base.clone()
    expected[0, 2:5] += x[0, 2:5] @ a.pairs[NAME][0] @ a.pairs[NAME][1]
    expected[0, 5:9] += x[0, 5:9] @ b.pairs[NAME][0] @ b.pairs[NAME][1]
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_slot_forgets_the_layers_that_its_new_adapter_lacks(base_path: Path) -> None:
    model = load_model(base_path)
    slots = AdapterSlots(model, 1)
    slots.release(slots.acquire(adapter("adapter-a", 3)) or 0)
    slots.acquire(adapter("adapter-b", 3, names=(OTHER,)))
    layer = model.get_submodule(NAME)
    assert isinstance(layer, SlotLinear)
    assert layer.slots == [None]


def test_slot_in_use_is_not_given_away(base_path: Path) -> None:
    slots = AdapterSlots(load_model(base_path), 2)
    a, b, c = (adapter(f"adapter-{x}", 2) for x in "abc")
    slot_a, slot_b = slots.acquire(a), slots.acquire(b)
    assert slots.acquire(c) is None
    assert slots.acquire(a) == slot_a
    assert slot_b is not None
    slots.release(slot_b)
    assert slots.acquire(c) == slot_b
    assert sorted(slots.loaded_ids) == ["adapter-a", "adapter-c"]


def test_slot_unused_for_longest_is_given_away_first(base_path: Path) -> None:
    slots = AdapterSlots(load_model(base_path), 2)
    a, b, c = (adapter(f"adapter-{x}", 2) for x in "abc")
    for one in (a, b, a):
        slots.release(slots.acquire(one) or 0)
    slots.acquire(c)
    assert sorted(slots.loaded_ids) == ["adapter-a", "adapter-c"]


def test_unloading_waits_for_the_last_user(base_path: Path) -> None:
    slots = AdapterSlots(load_model(base_path), 1)
    slot = slots.acquire(adapter("adapter-a", 2))
    assert slot is not None
    assert not slots.unload("adapter-a")
    slots.release(slot)
    assert slots.unload("adapter-a")
    assert slots.loaded_ids == []
    assert slots.unload("adapter-a")


def test_scale_is_folded_into_b() -> None:
    a, b = torch.randn(2, 6), torch.randn(8, 2)
    loaded = Adapter.from_layers("adapter-a", {NAME: (a, b, 0.5)}, torch.float32)
    x = torch.randn(3, 6)
    left, right = loaded.pairs[NAME]
    torch.testing.assert_close(x @ left @ right, 0.5 * (x @ a.T @ b.T))
    assert loaded.size_bytes == 4 * (12 + 16)
