from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from modeling.artifacts import lora
from tests.training import jobs
from training import checkpoint
from training.checkpoint import CheckpointError, Cursor
from training.checkpoint_folder import artifact_of
from training.messages import Lora, TrainConfig

CURSOR = Cursor(step=12, epoch=2, num_tokens=3456)
PROGRAM = {"found": torch.tensor([[0.1, 2.0]]), "count": torch.ones(())}


def lora_of(config: TrainConfig) -> Lora:
    assert isinstance(config.trainable, Lora)
    return config.trainable


def save(path: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": torch.rand(lora_of(config).rank, 64),
        f"{name}.lora_B.weight": torch.rand(64, lora_of(config).rank),
    }
    adapter_config = lora.AdapterConfig(**lora_of(config).model_dump(exclude={"kind"}))
    moments = {"a.exp_avg": torch.rand(3), "a.exp_avg_sq": torch.rand(3)}
    checkpoint.save(
        path,
        cursor=CURSOR,
        config=config,
        environment={"torch": "1"},
        artifact=lora.artifact(adapter_config, tensors),
        moments=moments,
        program=PROGRAM,
    )
    return {**tensors, **moments}


def test_checkpoint_gives_back_every_bit(base_path: Path, tmp_path: Path) -> None:
    config = jobs.config(base_path)
    saved = save(tmp_path / "step-12", config)
    assert [path.name for path in tmp_path.iterdir()] == ["step-12"]
    moved = config.model_copy(update={"base_path": "/elsewhere", "num_threads": 3})
    loaded = checkpoint.load(
        tmp_path / "step-12", config=moved, base_config=AutoConfig.from_pretrained(base_path)
    )
    assert loaded.cursor == CURSOR
    assert loaded.environment == {"torch": "1"}
    assert loaded.program.keys() == PROGRAM.keys()
    assert all(torch.equal(loaded.program[name], values) for name, values in PROGRAM.items())
    ((a, b, scale),) = lora.layers(loaded.artifact).values()
    tensors = [a, b, *loaded.moments.values()]
    assert all(torch.equal(*pair) for pair in zip(tensors, saved.values(), strict=True))
    assert scale == lora_of(config).alpha / lora_of(config).rank


def to_first_form(folder: Path) -> None:
    """As the versions wrote it that knew LoRA alone."""
    (folder / "artifact").rename(folder / "adapter")
    (folder / "artifact.json").unlink()
    file = folder / "state" / "state.json"
    state = json.loads(file.read_text())
    del state["sha256"]["artifact.json"]
    state["config"] |= state["config"].pop("trainable") | {"method": "supervised"}
    # And without what was not thought of yet.
    (folder / "state" / "program.safetensors").unlink()
    del state["sha256"]["state/program.safetensors"]
    del state["config"]["kind"], state["config"]["weight_decay"]
    digests = {k.replace("artifact/", "adapter/"): v for k, v in state["sha256"].items()}
    file.write_text(json.dumps({**state, "sha256": digests}))


def test_an_earlier_version_s_checkpoint_resumes(base_path: Path, tmp_path: Path) -> None:
    config, folder = jobs.config(base_path), tmp_path / "step-12"
    save(folder, config)
    base_config = AutoConfig.from_pretrained(base_path)
    now = checkpoint.load(folder, config=config, base_config=base_config)
    saved = artifact_of(folder)
    to_first_form(folder)
    before = checkpoint.load(folder, config=config, base_config=base_config)
    assert before.program == {}
    assert before.artifact.spec == now.artifact.spec
    assert before.artifact.manifest() == now.artifact.manifest()
    for change in ({"weight_decay": 0.1}, {"trainable": Lora(rank=8, alpha=32, target_modules=())}):
        other = config.model_copy(update=change)
        with pytest.raises(CheckpointError, match="another configuration"):
            checkpoint.load(folder, config=other, base_config=base_config)
    # Its supervisor can make a model of it, too.
    assert artifact_of(folder) == dataclasses.replace(saved, path=folder / "adapter", tensors=None)


def test_saving_again_replaces_leftovers(base_path: Path, tmp_path: Path) -> None:
    (tmp_path / "step-12.unfinished" / "state").mkdir(parents=True)
    save(tmp_path / "step-12", jobs.config(base_path))
    save(tmp_path / "step-12", jobs.config(base_path))
    assert [path.name for path in tmp_path.iterdir()] == ["step-12"]


@pytest.mark.parametrize(
    "name",
    [
        *("artifact/adapter_config.json", "artifact/adapter_model.safetensors", "artifact.json"),
        *("state/optimizer.safetensors", "state/program.safetensors", "state/state.json"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_checkpoint_is_refused(
    base_path: Path, tmp_path: Path, name: str, damage: str
) -> None:
    config = jobs.config(base_path)
    save(tmp_path / "step-12", config)
    file = tmp_path / "step-12" / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
    with pytest.raises(CheckpointError):
        checkpoint.load(
            tmp_path / "step-12", config=config, base_config=AutoConfig.from_pretrained(base_path)
        )


def test_checkpoint_of_another_run_is_refused(base_path: Path, tmp_path: Path) -> None:
    config = jobs.config(base_path)
    save(tmp_path / "step-12", config)
    with pytest.raises(CheckpointError, match="another configuration"):
        checkpoint.load(
            tmp_path / "step-12",
            config=config.model_copy(update={"seed": 8}),
            base_config=AutoConfig.from_pretrained(base_path),
        )
