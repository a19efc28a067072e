"""A merged model as a folder that transformers loads: weights in bf16 safetensors, configuration, tokenizer, chat template."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from modeling.safetensors_header import header

from .merged import Merged, OnProgress

WEIGHTS = "model.safetensors"
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
"""Of the base: what may be done with it holds for what is made of it."""


def write(merged: Merged, folder: Path, on_progress: OnProgress) -> None:
    """Into the existing `folder`. Raises TransferFailed and OSError."""
    _write_configuration(merged, folder)
    for name in COPIED:
        if (merged.base / name).is_file():
            shutil.copyfile(merged.base / name, folder / name)
    copy_licences(merged.base, folder)
    _write_weights(merged, folder / WEIGHTS, on_progress)


def copy_licences(base: Path, folder: Path) -> None:
    for name in LICENCES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def _write_configuration(merged: Merged, folder: Path) -> None:
    # Both names of the field: releases of transformers before 4.56 know the second only.
    config = {**merged.raw_config, "dtype": "bfloat16", "torch_dtype": "bfloat16"}
    _write_json(folder / "config.json", config)
    generation = merged.base / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)
    else:
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        found = {name: merged.raw_config.get(name) for name in ids}
        present = {name: id for name, id in found.items() if id is not None}
        _write_json(folder / "generation_config.json", present)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(merged: Merged, path: Path, on_progress: OnProgress) -> None:
    """Each tensor as it is made."""
    beginning, _ = header({name: merged.shape(name) for name in merged.names}, "BF16")
    with path.open("wb") as file:
        file.write(beginning)
        for _, value in merged.tensors(on_progress):
            file.write(_bytes(value.to(torch.bfloat16)))
        file.flush()
        os.fsync(file.fileno())


def _bytes(value: Tensor) -> memoryview:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data
