"""A run on disk: the artifact that users get, and the state from which the run goes on bit for bit.

    step-120/artifact/…, artifact.json      see checkpoint_folder
    step-120/state/optimizer.safetensors    both moments of every parameter, and itself if the artifact rounds it
    step-120/state/program.safetensors      what the method computed and must not lose, if there is something
    step-120/state/state.json               the cursor and the files' hashes

Nothing else has a state: order, schedule and initial weights are functions of the config and the
step. A directory is complete or absent: it is written under another name and then renamed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PretrainedConfig

from foundation.crash_points import crash_point
from modeling.artifacts import kinds
from modeling.artifacts.artifact import Artifact, ArtifactError

from .checkpoint_folder import ARTIFACT, MANIFEST, artifact_of
from .messages import TrainConfig
from .standing import Standing

_OPTIMIZER = Path("state/optimizer.safetensors")
_PROGRAM = Path("state/program.safetensors")
_STATE = Path("state/state.json")
# Part of the config, but not of what a run computes.
_FREE_TO_CHANGE = {"base_path", "checkpoint_interval_s", "num_threads", "precision"}


class CheckpointError(Exception):
    """A checkpoint that is incomplete, damaged or of another run."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a run stands: after `step` optimizer steps, in `epoch`, over `num_tokens` tokens."""

    step: int = 0
    epoch: int = 0
    num_tokens: int = 0
    standing: Standing | None = None
    """At the end of the last epoch, of a job that may stop early."""
    micro_batch_tokens: int | None = None
    """Since memory ran out; None: as in the config."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run needs to go on."""

    cursor: Cursor
    environment: dict[str, str]
    artifact: Artifact
    moments: dict[str, Tensor]
    program: dict[str, Tensor]
    """The state of the method's program."""


def environment(
    precision: str, device: torch.device, training_sha256: str, validation_sha256: str | None
) -> dict[str, str]:
    """What the bits of a run depend on beside its config; equal environments resume exactly."""
    on_gpu = device.type == "cuda"
    files = {"training_file": training_sha256, "validation_file": validation_sha256}
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "precision": precision,
        **{name: sha256 for name, sha256 in files.items() if sha256},
    }


def save(
    path: Path,
    *,
    cursor: Cursor,
    config: TrainConfig,
    environment: dict[str, str],
    artifact: Artifact,
    moments: dict[str, Tensor],
    program: dict[str, Tensor],
) -> None:
    """Write the directory `path`, which appears whole and on the disk or not at all.

    The moments have the names that those who load them expect. Raises ArtifactError for weights that no base
    could bear.
    """
    files = kinds.format_of(artifact.kind)
    files.check(artifact)
    unfinished = path.with_name(path.name + ".unfinished")
    for leftover in (unfinished, path):
        shutil.rmtree(leftover, ignore_errors=True)
    (unfinished / _STATE).parent.mkdir(parents=True)
    files.write(unfinished / ARTIFACT, artifact)
    (unfinished / MANIFEST).write_text(json.dumps(artifact.manifest()))
    save_file(moments, unfinished / _OPTIMIZER)
    if program:
        save_file(program, unfinished / _PROGRAM)
    state = {
        **dataclasses.asdict(cursor),
        "config": config.model_dump(mode="json", exclude=_FREE_TO_CHANGE),
        "environment": environment,
        "sha256": {str(p.relative_to(unfinished)): _sha256(p) for p in _files(unfinished)},
    }
    (unfinished / _STATE).write_text(json.dumps(state, indent=1))
    for file in _files(unfinished):
        _sync(file)
    for directory in (unfinished / ARTIFACT, unfinished / _STATE.parent, unfinished):
        _sync(directory)
    crash_point("before_checkpoint_rename")
    unfinished.rename(path)
    _sync(path.parent)
    crash_point("after_checkpoint_rename")


def load(path: Path, *, config: TrainConfig, base_config: PretrainedConfig) -> Checkpoint:
    """Read and verify a directory that `save` wrote for `config`. Raises CheckpointError."""
    try:
        state = json.loads((path / _STATE).read_text())
        damaged = [
            name for name, sha256 in state["sha256"].items() if _sha256(path / name) != sha256
        ]
        if damaged:
            raise CheckpointError(f"the checkpoint is damaged: {', '.join(damaged)}")
        free = config.model_dump(include=_FREE_TO_CHANGE)
        if TrainConfig.model_validate({**state["config"], **free}) != config:
            raise CheckpointError("the checkpoint was written by a run with another configuration")
        saved = artifact_of(path)
        return Checkpoint(
            cursor=_cursor(state),
            environment=state["environment"],
            artifact=kinds.format_of(saved.kind).read(saved.path, base_config),
            moments=load_file(path / _OPTIMIZER),
            program=load_file(path / _PROGRAM) if str(_PROGRAM) in state["sha256"] else {},
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ArtifactError,
        safetensors.SafetensorError,
    ) as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error}") from error


def _cursor(state: dict[str, Any]) -> Cursor:
    """Earlier versions knew neither a standing nor that memory may run out."""
    standing = state.get("standing")
    return Cursor(
        step=state["step"],
        epoch=state["epoch"],
        num_tokens=state["num_tokens"],
        standing=Standing(**standing) if standing else None,
        micro_batch_tokens=state.get("micro_batch_tokens"),
    )


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
