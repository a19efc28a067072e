"""Where a checkpoint's folder has its artifact: all that a supervisor needs to know of one. No torch.

step-120/artifact/…       what users get, in the format of its kind; see modeling/artifacts
step-120/artifact.json    its kind, its spec, and of each tensor the dtype, shape and SHA-256
step-120/state/…          what else a run goes on from; see training/checkpoint
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARTIFACT = Path("artifact")
MANIFEST = Path("artifact.json")


@dataclass(frozen=True)
class SavedArtifact:
    path: Path
    kind: str
    spec: dict[str, Any]
    """What is particular to its kind; a LoRA adapter's rank, for example."""
    tensors: dict[str, Any] | None
    """By name `{dtype, shape, sha256}`; None where it is not known."""


def artifact_of(folder: Path) -> SavedArtifact:
    """Raises OSError and ValueError for a folder that is no checkpoint's."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return _adapter_of(folder / "adapter")
    return SavedArtifact(folder / ARTIFACT, manifest["kind"], manifest["spec"], manifest["tensors"])


def _adapter_of(path: Path) -> SavedArtifact:
    """Versions that knew LoRA alone had PEFT's two files in a folder of that name, and no manifest."""
    return SavedArtifact(path, "lora", lora_spec(path), None)


def lora_spec(folder: Path) -> dict[str, Any]:
    """What PEFT's configuration in a LoRA adapter's folder says of it."""
    peft = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    spec = {
        "rank": peft["r"],
        "alpha": peft["lora_alpha"],
        "target_modules": peft["target_modules"],
    }
    if peft.get("use_rslora"):
        spec["use_rslora"] = True
    if pattern := peft.get("rank_pattern"):
        spec["rank_pattern"] = pattern
    return spec
