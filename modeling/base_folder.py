"""What a folder must hold, and must not, before a base model is loaded from it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

# Decoders of one shape: full attention (a sliding window at most), SwiGLU, projections named
# q_proj … down_proj. Others have parts that adapters, packing or serving would silently get wrong.
SUPPORTED_MODEL_TYPES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "olmo2"}
)
MAX_HEADER_BYTES = 100 << 20


class BaseFolderError(Exception):
    """The folder is not a base model that can be used; the message says why."""


def check_base_folder(folder: Path) -> None:
    """Raises `BaseFolderError` unless `folder` is complete, of a supported kind, and free of code to run.

    Weights are read from safetensors only; files of other weight formats are never opened.
    """
    config = _read(folder / "config.json")
    kind = config.get("model_type")
    if kind not in SUPPORTED_MODEL_TYPES:
        raise BaseFolderError(
            f"model type {kind!r} is not supported; supported: {', '.join(sorted(SUPPORTED_MODEL_TYPES))}"
        )
    if "auto_map" in config:
        raise BaseFolderError(
            "config.json asks to run code of its own (auto_map), which is refused"
        )
    if "quantization_config" in config:
        raise BaseFolderError("the weights are quantised; use an unquantised version of this model")
    if not (folder / "tokenizer.json").is_file():
        raise BaseFolderError(f"{folder} has no tokenizer.json")
    if "auto_map" in _read(folder / "tokenizer_config.json"):
        raise BaseFolderError(
            "tokenizer_config.json asks to run code of its own (auto_map), which is refused"
        )
    for shard in weight_files(folder):
        _check_shard(shard)


def weight_files(folder: Path) -> list[Path]:
    """From the index where there is one. Raises `BaseFolderError`."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise BaseFolderError(f"{folder} has no weights in safetensors format")
    names = sorted(set(_read(index).get("weight_map", {}).values()))
    if any(Path(name).name != name for name in names):
        raise BaseFolderError(f"{index.name} names files outside the folder")
    return [folder / name for name in names]


def _check_shard(shard: Path) -> None:
    """The header must account for every byte, so that a truncated download is noticed here."""
    try:
        size_bytes = shard.stat().st_size
        with shard.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > min(MAX_HEADER_BYTES, size_bytes):
                raise BaseFolderError(f"{shard.name} has a broken header")
            header = json.loads(file.read(header_bytes))
    except (OSError, ValueError, struct.error) as error:
        raise BaseFolderError(f"{shard.name} cannot be read: {error}") from error
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected_bytes = 8 + header_bytes + max(ends, default=0)
    if size_bytes != expected_bytes:
        raise BaseFolderError(f"{shard.name} has {size_bytes} bytes instead of {expected_bytes}")


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseFolderError(f"{path} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise BaseFolderError(f"{path} does not hold an object")
    return loaded
