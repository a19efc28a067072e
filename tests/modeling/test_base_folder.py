from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling.base_folder import BaseFolderError, check_base_folder


def edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return edit


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def shard(folder: Path, file_name: str = "model-1.safetensors") -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"model.norm.weight": file_name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def folder(base_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_path, tmp_path / "base"))


def test_check_complete_folder_passes(folder: Path) -> None:
    check_base_folder(folder)
    shard(folder)
    check_base_folder(folder)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (edit_json("config.json", model_type="gpt2"), "model type 'gpt2' is not supported"),
        (edit_json("config.json", auto_map={"AutoModel": "evil.py"}), "code of its own"),
        (edit_json("tokenizer_config.json", auto_map={}), "code of its own"),
        (edit_json("config.json", quantization_config={}), "quantised"),
        (lambda folder: (folder / "config.json").write_text("[]"), "does not hold an object"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"no tokenizer\.json"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "no weights in safetensors",
        ),
        (truncate, "bytes instead of"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 16), "broken header"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be read"),
        (lambda folder: shard(folder, "../model-1.safetensors"), "outside the folder"),
        (lambda folder: shard(folder, "model-2.safetensors"), "cannot be read"),
    ],
)
def test_check_folder_that_cannot_be_used_is_refused(
    folder: Path, damage: Callable[[Path], None], problem: str
) -> None:
    damage(folder)
    with pytest.raises(BaseFolderError, match=problem):
        check_base_folder(folder)
