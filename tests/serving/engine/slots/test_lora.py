from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling.artifacts.lora import linear_shapes
from serving.engine.slots.lora import Adapter, AdapterSlots
from serving.engine.slots.slot_linear import SlotLinear, SlotRun
from tests.serving.parts import load_model

UP = "model.layers.0.mlp.up_proj"
GATE = "model.layers.0.mlp.gate_proj"
OUT = "model.layers.1.self_attn.o_proj"


def layers_of(
    model: PreTrainedModel, rank: int, names: tuple[str, ...]
) -> dict[str, tuple[Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(rank)
    layers = {}
    for name in names:
        num_out, num_in = linear_shapes(model.config)[name]
        a = torch.randn(rank, num_in, generator=generator)
        layers[name] = (a, torch.randn(num_out, rank, generator=generator), 0.5)
    return layers


def adapter(
    model: PreTrainedModel, adapter_id: str, rank: int = 2, names: tuple[str, ...] = (UP, OUT)
) -> Adapter:
    layers = layers_of(model, rank, names)
    return Adapter.from_layers(adapter_id, layers, linear_shapes(model.config), torch.float32)


def delta(x: Tensor, layer: tuple[Tensor, Tensor, float]) -> Tensor:
    a, b, scale = layer
    return scale * (x @ a.T @ b.T)


def test_each_run_gets_its_own_adapter_and_the_base_none(base_path: Path) -> None:
    model = load_model(base_path)
    plain = load_model(base_path).get_submodule("model.layers.0.mlp")
    slots = AdapterSlots(model, 2)
    slot_a = slots.acquire(adapter(model, "adapter-a", 3))
    slot_b = slots.acquire(adapter(model, "adapter-b", 5, (GATE, UP)))
    x = torch.randn(1, 9, 64)
    slots.set_runs([SlotRun(None, 2), SlotRun(slot_a, 3), SlotRun(slot_b, 4)])
    with torch.inference_mode():
        up, gate = model.get_submodule(UP)(x), model.get_submodule(GATE)(x)
        expected_up, expected_gate = plain.up_proj(x), plain.gate_proj(x)  # type: ignore[operator]
        expected_up[0, 2:5] += delta(x[0, 2:5], layers_of(model, 3, (UP,))[UP])
        of_b = layers_of(model, 5, (GATE, UP))
        expected_up[0, 5:] += delta(x[0, 5:], of_b[UP])
        expected_gate[0, 5:] += delta(x[0, 5:], of_b[GATE])
    torch.testing.assert_close(up, expected_up, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(gate, expected_gate, atol=1e-3, rtol=1e-3)


def test_slot_forgets_the_layers_that_its_new_adapter_lacks(base_path: Path) -> None:
    model = load_model(base_path)
    slots = AdapterSlots(model, 1)
    slots.release(slots.acquire(adapter(model, "adapter-a")) or 0)
    slots.acquire(adapter(model, "adapter-b", names=(OUT,)))
    for layer in model.modules():
        if isinstance(layer, SlotLinear) and layer is not model.get_submodule(OUT):
            assert layer.slots == [None]


def test_slot_in_use_is_not_given_away(base_path: Path) -> None:
    model = load_model(base_path)
    slots = AdapterSlots(model, 2)
    a, b, c = (adapter(model, f"adapter-{x}") for x in "abc")
    slot_a, slot_b = slots.acquire(a), slots.acquire(b)
    assert slots.acquire(c) is None
    assert slots.acquire(a) == slot_a
    assert slot_b is not None
    slots.release(slot_b)
    assert slots.acquire(c) == slot_b
    assert sorted(slots.loaded_ids) == ["adapter-a", "adapter-c"]


def test_slot_unused_for_longest_is_given_away_first(base_path: Path) -> None:
    model = load_model(base_path)
    slots = AdapterSlots(model, 2)
    a, b, c = (adapter(model, f"adapter-{x}") for x in "abc")
    for one in (a, b, a):
        slots.release(slots.acquire(one) or 0)
    slots.acquire(c)
    assert sorted(slots.loaded_ids) == ["adapter-a", "adapter-c"]


def test_unloading_waits_for_the_last_user(base_path: Path) -> None:
    model = load_model(base_path)
    slots = AdapterSlots(model, 1)
    slot = slots.acquire(adapter(model, "adapter-a"))
    assert slot is not None
    assert not slots.unload("adapter-a")
    slots.release(slot)
    assert slots.unload("adapter-a")
    assert slots.loaded_ids == []
    assert slots.unload("adapter-a")


def test_size_counts_every_tensor(base_path: Path) -> None:
    model = load_model(base_path)
    assert adapter(model, "adapter-a", 2, (OUT,)).size_bytes == 4 * (64 * 2 + 2 * 64)
