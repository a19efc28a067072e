"""Weights of a base under the base's own names, in bf16: what the kinds `full` and `output_layers` consist of.

What is read may come from anyone: names, shapes and dtypes must be those of the base's config, to the last one, and
the values such as a base bears.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from . import files
from .artifact import ArtifactError, check_bound
from .lora import MAX_GAIN, MAX_WEIGHT

DTYPE = torch.bfloat16
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
Shapes = dict[str, tuple[int, ...]]


def shapes_of(config: PretrainedConfig) -> Shapes:
    """Of each weight of the model that `config` describes; a tied one stands here once."""
    return {name: tuple(p.shape) for name, p in without_weights(config).named_parameters()}


def without_weights(
    config: PretrainedConfig, *, attn_implementation: str = "sdpa"
) -> PreTrainedModel:
    """The model that `config` describes, none of whose tensors has values."""
    with torch.device("meta"):
        # Of this type, as what transformers takes for the process's default meanwhile is what other threads get.
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            copy.deepcopy(config), dtype=torch.float32, attn_implementation=attn_implementation
        )
    return model


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and in bf16; what is both already is not copied."""
    return {name: t.detach().to("cpu", DTYPE).contiguous() for name, t in tensors.items()}


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(rounded(tensors), path, metadata={"format": "pt"})


def load(path: Path, shapes: Shapes) -> dict[str, Tensor]:
    """The tensors of exactly these names and shapes. Raises `ArtifactError`."""
    try:
        files.check_header(path)
        # Told before anything is read: what does not fit may be as large as it likes.
        with safetensors.safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            _check_names(path.name, {n: tuple(s.get_shape()) for n, s in slices.items()}, shapes)
            for name, described in slices.items():
                if described.get_dtype() != "BF16":
                    raise ArtifactError(f"{name} is of type {described.get_dtype()}, not BF16")
            tensors = {name: opened.get_tensor(name) for name in shapes}
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path.name} cannot be read: {error}") from error
    check_values(tensors)
    return tensors


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Refuses values that no base could bear: not finite, or absurdly large."""
    for name, tensor in tensors.items():
        values = tensor.detach().float()
        weight = float(values.abs().max())
        # What a layer does to the size (RMS) of a random input.
        rows = tensor.shape[0] if tensor.ndim > 1 else tensor.numel()
        gain = float(values.norm()) / math.sqrt(rows)
        check_bound(name, "weights", weight, MAX_WEIGHT)
        check_bound(name, "gain", gain, MAX_GAIN)


def _check_names(file: str, found: Shapes, expected: Shapes) -> None:
    if missing := expected.keys() - found.keys():
        raise ArtifactError(f"{file} lacks {min(missing)}, which this base has")
    if unknown := found.keys() - expected.keys():
        raise ArtifactError(f"{file} holds {min(unknown)}, which has no place there")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ArtifactError(
                f"{name} has shape {found[name]} where this base needs {shape}: it was made for another "
                "base model"
            )
