"""The two files of an adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors.

What is read may come from anyone: a file that is too large, no JSON, no safetensors, or holds values that are not finite
numbers raises `ArtifactError`. What the options mean is the kind's own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from . import files
from .artifact import ArtifactError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MAX_FILE_BYTES = {CONFIG_NAME: files.MAX_CONFIG_BYTES, WEIGHTS_NAME: 8 << 30}
"""Beyond which they are refused."""


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Makes the folder if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(contiguous, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    files.write_json(folder / CONFIG_NAME, config)


def read_config(
    folder: Path, peft_type: str, what: str, neutral_options: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The configuration of `what`, whose `neutral_options`, where given, have one of those values."""
    raw = files.read_json(folder / CONFIG_NAME)
    if raw.get("peft_type") != peft_type:
        found = f": its peft_type is {raw['peft_type']!r}" if "peft_type" in raw else ""
        raise ArtifactError(f"{CONFIG_NAME} does not describe a {what}{found}")
    for option, neutral in neutral_options.items():
        if option in raw and raw[option] not in neutral:
            raise ArtifactError(f"adapters with {option}={raw[option]!r} are not supported")
    return raw


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All the tensors, fp32 on the CPU."""
    try:
        files.check_header(folder / WEIGHTS_NAME)
        tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{WEIGHTS_NAME} cannot be read: {error}") from error
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        # Of a float64, what is too large for fp32 is an infinity only then.
        numbers = tensor.to(torch.float32) if tensor.is_floating_point() else None
        if numbers is None or not bool(torch.isfinite(numbers.flatten()).all()):
            raise ArtifactError(f"{name} holds values that are not finite numbers")
        found[name] = numbers
    return found
