"""The two files of an adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors.

What is read may come from anyone: a file that is too large, no JSON, no safetensors, or holds values that are not finite
numbers raises `ArtifactError`. What the options mean is the kind's own affair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .artifact import ArtifactError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
# A header holds some hundred bytes a tensor; more than this is an attack or another kind of file.
MAX_HEADER_BYTES = 4 << 20
MAX_CONFIG_BYTES = 1 << 20


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Makes the folder if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(contiguous, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")


def read_config(
    folder: Path, peft_type: str, what: str, neutral_options: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The configuration of `what`, whose `neutral_options`, where given, have one of those values."""
    path = folder / CONFIG_NAME
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ArtifactError(f"{CONFIG_NAME} is too large")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{CONFIG_NAME} cannot be read: {error}") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != peft_type:
        found = ""
        if isinstance(raw, dict) and "peft_type" in raw:
            found = f": its peft_type is {raw['peft_type']!r}"
        raise ArtifactError(f"{CONFIG_NAME} does not describe a {what}{found}")
    for option, neutral in neutral_options.items():
        if option in raw and raw[option] not in neutral:
            raise ArtifactError(f"adapters with {option}={raw[option]!r} are not supported")
    return raw


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All the tensors, fp32 on the CPU."""
    try:
        with (folder / WEIGHTS_NAME).open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ArtifactError(
                f"{WEIGHTS_NAME} has a header of {header_bytes} bytes, which is too large"
            )
        tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{WEIGHTS_NAME} cannot be read: {error}") from error
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found[name] = tensor.to(torch.float32)
        # Of a float64, what is too large for fp32 is an infinity only now.
        if not tensor.is_floating_point() or not bool(torch.isfinite(found[name]).all()):
            raise ArtifactError(f"{name} holds values that are not finite numbers")
    return found


def check_base(
    named: str, named_revision: str, base_model: str | None, base_revision: str | None
) -> None:
    """Refuses an adapter that names another base than the given one, as far as both are known."""
    if base_model and named and named != base_model:
        raise ArtifactError(f"the adapter was made for {named}, not for {base_model}")
    if base_revision and named_revision and named_revision != base_revision:
        raise ArtifactError(
            f"the adapter was made for revision {named_revision} of {named or 'its base'}, not {base_revision}"
        )
