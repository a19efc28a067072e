from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from tests.training import jobs
from training import checkpoint
from training.checkpoint import CheckpointError, Cursor
from training.messages import TrainConfig

CURSOR = Cursor(step=12, epoch=2, num_tokens=3456)


def save(path: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    adapter = {
        f"{name}.lora_A.weight": torch.rand(config.rank, 64),
        f"{name}.lora_B.weight": torch.rand(64, config.rank),
    }
    moments = {"a.exp_avg": torch.rand(3), "a.exp_avg_sq": torch.rand(3)}
    checkpoint.save(
        path,
        cursor=CURSOR,
        config=config,
        environment={"torch": "1"},
        adapter=adapter,
        moments=moments,
    )
    return {**adapter, **moments}


def test_checkpoint_gives_back_every_bit(base_path: Path, tmp_path: Path) -> None:
    config = jobs.config(base_path)
    saved = save(tmp_path / "step-12", config)
    assert [path.name for path in tmp_path.iterdir()] == ["step-12"]
    moved = dataclasses.replace(config, base_path="/elsewhere", num_threads=3)
    loaded = checkpoint.load(
        tmp_path / "step-12", config=moved, base_config=AutoConfig.from_pretrained(base_path)
    )
    assert loaded.cursor == CURSOR
    assert loaded.environment == {"torch": "1"}
    ((a, b, scale),) = loaded.adapter.values()
    tensors = [a, b, *loaded.moments.values()]
    assert all(torch.equal(*pair) for pair in zip(tensors, saved.values(), strict=True))
    assert scale == config.alpha / config.rank


def test_saving_again_replaces_leftovers(base_path: Path, tmp_path: Path) -> None:
    (tmp_path / "step-12.unfinished" / "state").mkdir(parents=True)
    save(tmp_path / "step-12", jobs.config(base_path))
    save(tmp_path / "step-12", jobs.config(base_path))
    assert [path.name for path in tmp_path.iterdir()] == ["step-12"]


@pytest.mark.parametrize(
    "name",
    [
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        *("state/optimizer.safetensors", "state/state.json"),
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
            config=dataclasses.replace(config, seed=8),
            base_config=AutoConfig.from_pretrained(base_path),
        )
