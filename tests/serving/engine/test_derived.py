"""A model that has its own last layers shares the rest with the base."""

from __future__ import annotations

from pathlib import Path

import torch

from modeling.artifacts import output_layers
from serving.engine.derived import derive, own_bytes
from serving.engine.heads import HeadedOutput
from serving.engine.slots.linear import PackedLinear, Part
from serving.engine.slots.slot_linear import SlotLinear
from tests.serving.parts import make_engine
from text.tokenizer import Tokenizer


def test_output_layers_have_their_trunk_in_common_with_the_base(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    served = make_engine(base_path, tokenizer).model
    config = served.config
    shapes = output_layers.trained_shapes(config, num_blocks=1, train_head=False)
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    model = derive(served, config, tensors)
    assert own_bytes(served, config, tensors) == 4 * sum(t.numel() for t in tensors.values())
    for name in ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"):
        assert model.get_parameter(name) is served.get_parameter(name)
    assert packed(model.get_submodule("lm_head")) is packed(served.get_submodule("lm_head"))
    for name in ("self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj"):
        theirs, base = (m.get_submodule(f"model.layers.0.{name}") for m in (model, served))
        assert packed(theirs) is packed(base)
        if isinstance(theirs, Part):
            # What belongs to a step is each model's own.
            assert isinstance(base, Part)
            assert theirs.fused is not base.fused


def packed(module: torch.nn.Module) -> PackedLinear:
    module = module.layer if isinstance(module, HeadedOutput) else module
    module = module.fused.layer if isinstance(module, Part) else module
    module = module.base if isinstance(module, SlotLinear) else module
    assert isinstance(module, PackedLinear)
    return module
