"""The base's linear layers for inference: fused where they read the same input, laid out for the kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Layers of one module that read the same input, by their names in transformers' models.
SHARING_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# The batch that the packed layout is tuned for: a decode step of many sequences.
TUNED_FOR_TOKENS = 16


class PackedLinear(nn.Module):
    """One or several `nn.Linear` of one input as a single matrix product; their outputs side by side.

    On the CPU the weight is stored in oneDNN's blocked layout: with up to 32 tokens, where decoding spends its time,
    the product takes 0.5 to 0.7 of the time of `F.linear`, which lays the weight out anew each time. The plain weight is
    given up, so no memory is lost, but for a head that is the embedding as well.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        weight = torch.cat([linear.weight.detach() for linear in linears])
        self.device = weight.device
        self.is_packed = weight.device.type == "cpu" and _packs(weight.dtype)
        if self.is_packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, TUNED_FOR_TOKENS)
        # No buffers: the packed layout can be neither saved nor moved to another device.
        self._weight = weight
        self._bias = _bias_of(linears)

    def forward(self, x: Tensor, gained: Tensor | None = None) -> Tensor:
        """(..., in) -> (..., sum of out), with what adapters add, of that shape, which is given up.

        Theirs is summed up in one product with the base's, whose output in bf16 would be too coarse to add it to: see
        `modeling.trainable.lora_products`.
        """
        out: Tensor
        if self.is_packed:
            linear = torch.ops.mkldnn._linear_pointwise
            if gained is None:
                out = linear(x, self._weight, self._bias, "none", [], "")
            else:
                out = linear.binary(x, gained, self._weight, self._bias, "add")
            return out
        if gained is None:
            return F.linear(x, self._weight, self._bias)
        out = gained.flatten(0, -2).addmm_(x.flatten(0, -2), self._weight.t())
        if self._bias is not None:
            out += self._bias
        return out.view(gained.shape)


class Part(nn.Module):
    """Stands where one of several fused layers stood, and gives its share of their common output.

    The first part that is called with an input has the output computed; the others find it there.
    """

    def __init__(self, fused: Fused, index: int) -> None:
        super().__init__()
        self.fused = fused
        self._index = index

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return self.fused.take(x, self._index)


class Fused(nn.Module):
    """A layer whose output is handed out in parts."""

    def __init__(self, layer: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layer = layer
        self._sizes = list(sizes)
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def take(self, x: Tensor, index: int) -> Tensor:
        """The part `index` of the layer's output for `x`."""
        if x is not self._input or index not in self._outputs:
            self._input = x
            self._outputs = dict(enumerate(torch.split(self.layer(x), self._sizes, -1)))
        out = self._outputs.pop(index)
        if not self._outputs:
            self._input = None
        return out


def fused_names(name: str) -> list[str]:
    """The names of the layers that are fused with layer `name`, itself included, in their order."""
    parent, _, child = name.rpartition(".")
    for children in SHARING_INPUT:
        if child in children:
            return [f"{parent}.{other}" for other in children]
    return [name]


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """In the place of the model's layer of that name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def put_parts(
    model: nn.Module, names: Sequence[str], layer: nn.Module, sizes: Sequence[int]
) -> None:
    """A layer whose output has these sizes, in the places of the layers that it computes."""
    if len(names) == 1:
        put(model, names[0], layer)
        return
    fused = Fused(layer, sizes)
    for index, name in enumerate(names):
        put(model, name, Part(fused, index))


def _packs(dtype: torch.dtype) -> bool:
    """Whether this processor has oneDNN's kernels for it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _bias_of(linears: Sequence[nn.Linear]) -> Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat(
        [
            linear.weight.new_zeros(linear.out_features)
            if linear.bias is None
            else linear.bias.detach()
            for linear in linears
        ]
    )
