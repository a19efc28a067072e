"""Random adapters on all linear layers: as folders, and as training publishes them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import torch
from transformers import AutoConfig

from modeling.artifacts import lora
from modeling.artifacts.lora import AdapterConfig
from serving.adapters.ref import AdapterRef
from storage.blobs.blobs import BlobStore

RANK = 16


def write(base_path: Path, folder: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (num_out, num_in) in lora.linear_shapes(
        AutoConfig.from_pretrained(base_path)
    ).items():
        for side, shape in (("A", (RANK, num_in)), ("B", (num_out, RANK))):
            noise = torch.randn(shape, generator=generator) * 0.01
            tensors[f"base_model.model.{name}.lora_{side}.weight"] = noise
    config = AdapterConfig(rank=RANK, alpha=RANK, target_modules=lora.TARGET_MODULES)
    lora.save(folder, config, tensors)
    return folder


def upload(
    blobs: BlobStore, folder: Path, *, id: str | None = None, kind: str = lora.KIND
) -> AdapterRef:
    """An artifact's files, as training publishes them. Without an id it is called as its folder is."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    data = content.getvalue()
    ref = AdapterRef(id or folder.name, hashlib.sha256(data).hexdigest(), len(data), kind)
    with blobs.writer(ref.blob_key) as writer:
        writer.write(data)
        writer.commit()
    return ref
