from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig

from modeling.artifacts import kinds, lora, peft_files
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.lora import AdapterConfig, linear_shapes, peft_name
from serving.adapters import files as artifact_files
from storage.models import artifacts


def an_adapter(base_path: Path) -> Artifact:
    config = AdapterConfig(
        rank=4,
        alpha=8.0,
        target_modules=("k_proj", "q_proj"),
        base_model_name_or_path="tiny-random",
        use_rslora=True,
        rank_pattern={"layers.0.self_attn.k_proj": 2},
    )
    tensors = {}
    for name, (num_out, num_in) in linear_shapes(AutoConfig.from_pretrained(base_path)).items():
        if name.endswith(config.target_modules):
            rank = config.rank_of(name)
            tensors[peft_name(name, "A")] = torch.randn(rank, num_in)
            tensors[peft_name(name, "B")] = torch.randn(num_out, rank)
    return lora.artifact(config, tensors)


def test_an_artifact_is_read_as_it_was_written(base_path: Path, tmp_path: Path) -> None:
    saved = an_adapter(base_path)
    files = kinds.format_of(saved.kind)
    files.check(saved)
    files.write(tmp_path, saved)
    read = files.read(tmp_path, AutoConfig.from_pretrained(base_path), base_model="tiny-random")
    assert read.manifest() == saved.manifest()
    assert read.base_model == "tiny-random"
    scales = {scale for _, _, scale in lora.layers(read).values()}
    assert scales == {8.0 / math.sqrt(4), 8.0 / math.sqrt(2)}


def test_the_manifest_has_each_tensor_s_bytes_as_they_lie_in_the_file(
    base_path: Path, tmp_path: Path
) -> None:
    saved = an_adapter(base_path)
    kinds.format_of(saved.kind).write(tmp_path, saved)
    manifest = json.loads(json.dumps(saved.manifest()))
    found = {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }
        for name, array in load_file(tmp_path / peft_files.WEIGHTS_NAME).items()
    }
    assert manifest["tensors"] == found


def test_a_tensor_of_any_type_and_shape_has_a_digest() -> None:
    half = torch.ones(2, 3, dtype=torch.bfloat16).T
    tensors = {"scalar": torch.tensor(1.0), "transposed": half, "empty": torch.empty(0, 4)}
    found = Artifact("any", {}, tensors).manifest()["tensors"]
    assert found["scalar"]["shape"] == []
    assert (found["transposed"]["dtype"], found["transposed"]["shape"]) == ("bfloat16", [3, 2])
    assert found["empty"]["sha256"] == hashlib.sha256(b"").hexdigest()


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match="kind 'spell' are not known here; known: lora"):
        kinds.format_of("spell")


def test_the_control_plane_which_knows_no_model_speaks_of_the_same_kinds() -> None:
    known = kinds.KINDS.keys()
    assert known == artifacts.PEFT_KINDS | artifacts.MERGEABLE_KINDS
    assert known >= artifacts.TRAINABLE_FROM
    assert artifact_files.MAX_FILE_BYTES.keys() == artifacts.SERVED_KINDS <= known
    assert artifacts.LORA_TARGETS == lora.TARGET_MODULES
