"""A model that shares with another one in memory whatever they have in common."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from modeling.artifacts.model_tensors import EMBEDDING, HEAD, without_weights

from . import attention
from .heads import HeadedOutput
from .slots.linear import PackedLinear, Part, fused_names, put_parts
from .slots.slot_linear import SlotLinear


def derive(
    served: PreTrainedModel, config: PretrainedConfig, tensors: Mapping[str, Tensor]
) -> PreTrainedModel:
    """A model of `config` that has these weights of its own; all others are the very ones of `served`, which an
    engine has taken over.

    What each of them computes is no affair of the other's: they share what is only read.
    """
    model = without_weights(config, attn_implementation=attention.NAME)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # A tied weight has two names, and one identity.
    own = {
        id(parameters[name]): nn.Parameter(t.to(served.device, served.dtype), requires_grad=False)
        for name, t in tensors.items()
    }
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) not in own
    }
    for name in linears:
        names = fused_names(name)
        if name == names[0]:
            packed = _packed(served.get_submodule(name))
            put_parts(model, names, packed, [linears[n].out_features for n in names])
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        is_own = id(parameter) in own
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._parameters[child] = (
            own[id(parameter)] if is_own else served.get_parameter(name)
        )
    for name, _ in list(model.named_buffers()):
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._buffers[child] = served.get_buffer(name).clone()
    model.train(False)
    return model


def own_bytes(
    served: PreTrainedModel, config: PretrainedConfig, tensors: Mapping[str, Tensor]
) -> int:
    """Memory that a derived model's own weights take."""
    num_numbers = sum(tensor.numel() for tensor in tensors.values())
    if config.tie_word_embeddings and EMBEDDING in tensors and HEAD not in tensors:
        # The head's product has a layout of its own.
        num_numbers += tensors[EMBEDDING].numel()
    return num_numbers * served.dtype.itemsize


def _packed(module: nn.Module) -> PackedLinear:
    """What an engine has put there, without its adapters and without what belongs to a step."""
    if isinstance(module, HeadedOutput):
        module = module.layer
    if isinstance(module, Part):
        module = module.fused.layer
    if isinstance(module, SlotLinear):
        module = module.base
    assert isinstance(module, PackedLinear)
    return module
