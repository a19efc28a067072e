"""LoRA for training: each adapted linear computes y = x W^T + bias + scale * (x A^T) B^T, see `lora_products`."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.artifacts import lora as files
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.lora import AdapterConfig, LoadedAdapter, peft_name
from modeling.noise import Dropout

from . import trainable
from .lora_products import AdaptedWeight, products
from .places import place_of, put_module
from .trainable import Beginning, PackedRow


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank part. `lora_A` (R, in), `lora_B` (out, R)."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.dropout: Dropout | None = None
        """Set from outside, by who trains with it."""
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)"""
        factors = self.dropout.factors(x) if self.dropout is not None else None
        if factors is not None:
            return self._with_dropout(x, factors)
        return products(x, [self._adapted()])[0]

    def _adapted(self) -> AdaptedWeight:
        base = self.base
        return AdaptedWeight(base.weight, base.bias, self.lora_A, self.lora_B, self.scale)

    def _with_dropout(self, x: Tensor, factors: Tensor) -> Tensor:
        """The low-rank part reads x * factors. By autograd: it keeps more for backward than without."""
        narrow = F.linear(x * factors, self.lora_A.to(x.dtype)) * self.scale
        small = F.linear(narrow, self.lora_B.to(x.dtype))
        # The small one first, for the reason that stands in `lora_products`.
        y = torch.addmm(small.flatten(0, -2), x.flatten(0, -2), self.base.weight.t())
        y = y.view(small.shape)
        return y if self.base.bias is None else y + self.base.bias


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """What linear layers make of the same x, each as if by itself; the adapted ones among them together."""
    adapted = [layer for layer in layers if isinstance(layer, LoraLinear)]
    if len(adapted) < 2 or any(layer.dropout is not None for layer in adapted):
        return tuple(layer(x) for layer in layers)
    made = iter(products(x, [layer._adapted() for layer in adapted]))
    return tuple(next(made) if isinstance(layer, LoraLinear) else layer(x) for layer in layers)


class LoraTrainable:
    """LoRA as something to train."""

    head = None
    output = None
    artifact_is_exact = True

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rank: int,
        alpha: float,
        target_modules: tuple[str, ...],
        use_rslora: bool,
        seed: int,
    ) -> None:
        """As `attach`."""
        self._model = model
        self._config = AdapterConfig(rank, alpha, target_modules, use_rslora=use_rslora)
        self._modules = attach(model, rank, alpha, target_modules, seed, use_rslora=use_rslora)
        # Found once: it is set aside whenever another job may have a turn.
        self._places = {name: place_of(model, name) for name in self._modules}
        self.parameters = {
            f"{name}.{side}": parameter
            for name, module in self._modules.items()
            for side, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    @property
    def layers(self) -> Mapping[str, LoraLinear]:
        """By the names of the linear layers in whose places they are."""
        return self._modules

    def begin(self, beginning: Beginning) -> None:
        """It begins as a function of the seed."""

    def hidden_states(self, row: PackedRow) -> Tensor:
        return trainable.hidden_states(self._model, row)

    def refresh(self) -> None:
        """The model computes with the parameters themselves."""

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        self.detach()
        try:
            yield
        finally:
            for name, lora in self._modules.items():
                put_module(lora, self._places[name])

    def detach(self) -> None:
        for name, lora in self._modules.items():
            put_module(lora.base, self._places[name])

    def artifact(self, base_model: str) -> Artifact:
        config = dataclasses.replace(self._config, base_model_name_or_path=base_model)
        return files.artifact(config, tensors(self._modules))

    def take_over(self, artifact: Artifact) -> None:
        set_weights(self._modules, files.layers(artifact))


def attach(
    model: nn.Module,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
    seed: int,
    *,
    use_rslora: bool = False,
) -> dict[str, LoraLinear]:
    """Replaces every linear layer whose last name is in `target_modules`; gives them by module name.

    A new adapter changes nothing: B is zero. A depends on `seed` and the module's name alone. Raises
    `ValueError` if nothing matches or the model has adapters already.
    """
    if _attached(model):
        raise ValueError("the model has adapters already: detach them first")
    targets = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in target_modules
    ]
    if not targets:
        raise ValueError(f"the model has no linear layer named {', '.join(target_modules)}")
    scale = alpha / math.sqrt(rank) if use_rslora else alpha / rank
    modules = {}
    for name, linear in targets:
        lora = LoraLinear(linear, rank, scale)
        initial = initial_A(seed, name, rank, linear.in_features)
        lora.lora_A.data.copy_(initial)
        put_module(lora, place_of(model, name))
        modules[name] = lora
    return modules


def detach(model: nn.Module) -> None:
    """Puts the plain linear layers back, the very objects that `attach` took out."""
    for name, lora in _attached(model):
        put_module(lora.base, place_of(model, name))


def initial_A(seed: int, module_name: str, rank: int, in_features: int) -> Tensor:
    """(R, in), uniform in ±1/sqrt(in) as PEFT draws it; a function of the arguments alone."""
    digest = hashlib.sha256(f"{seed}/{module_name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    bound = 1 / math.sqrt(in_features)
    return torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)


def tensors(modules: Mapping[str, LoraLinear]) -> dict[str, Tensor]:
    """Copies of A and B on the CPU, named as `artifacts.lora.save` wants them."""
    copies = {}
    for name, lora in modules.items():
        copies[peft_name(name, "A")] = lora.lora_A.detach().to("cpu", copy=True)
        copies[peft_name(name, "B")] = lora.lora_B.detach().to("cpu", copy=True)
    return copies


def set_weights(modules: Mapping[str, LoraLinear], adapter: LoadedAdapter) -> None:
    """Goes on from a loaded adapter that adapts the same layers, or fewer, in ranks as high at most.

    What it lacks stays as it began and adds nothing. A different scale is folded into B, so that the model computes the
    same. Raises `ArtifactError`.
    """
    if strange := adapter.keys() - modules.keys():
        raise ArtifactError(
            f"the adapter to go on from adapts {min(strange)}, which is not asked for"
        )
    for name, (a, b, scale) in adapter.items():
        lora = modules[name]
        rank, room = a.shape[0], lora.lora_A.shape[0]
        if rank > room:
            raise ArtifactError(f"the adapter to go on from has rank {rank} in {name}, not {room}")
        lora.lora_A.data[:rank] = a
        lora.lora_B.data[:, :rank] = b * (scale / lora.scale)


def _attached(model: nn.Module) -> list[tuple[str, LoraLinear]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLinear)]
