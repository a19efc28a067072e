"""The kind classifier on disk: what PEFT and transformers make of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from modeling.artifacts import classifier, head
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.lora import AdapterConfig, linear_shapes, peft_name

LABELS = ["good", "bad", "so-so"]


@pytest.fixture(scope="module")
def artifact(base_path: Path) -> Artifact:
    config = AutoConfig.from_pretrained(base_path)
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, (out_features, in_features) in linear_shapes(config).items():
        tensors[peft_name(name, "A")] = torch.randn(4, in_features, generator=generator) / 8
        tensors[peft_name(name, "B")] = torch.randn(out_features, 4, generator=generator) / 8
    tensors[head.SCORE] = torch.randn(3, config.hidden_size, generator=generator)
    targets = tuple(sorted({name.rpartition(".")[2] for name in linear_shapes(config)}))
    return classifier.artifact(AdapterConfig(4, 8.0, targets, "tiny-random"), tensors, LABELS)


@pytest.fixture
def folder(artifact: Artifact, tmp_path: Path) -> Path:
    classifier.write(tmp_path / "artifact", artifact)
    return tmp_path / "artifact"


def read(folder: Path, base_path: Path) -> Artifact:
    return classifier.read(folder, AutoConfig.from_pretrained(base_path), base_model="tiny-random")


def test_it_comes_back_as_it_was(artifact: Artifact, folder: Path, base_path: Path) -> None:
    found = read(folder, base_path)
    assert found.spec == artifact.spec
    assert found.manifest() == artifact.manifest()


def test_peft_loads_it_whole_into_a_classifier_of_transformers(
    artifact: Artifact, folder: Path, base_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base_path, num_labels=3)
    model = PeftModel.from_pretrained(model, str(folder))
    state = {
        name.replace(".default", "").replace(".modules_to_save", ""): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" in name or ".modules_to_save." in name
    }
    assert state.keys() == artifact.tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in artifact.tensors.items())


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task_type": "CAUSAL_LM"}, "task_type='CAUSAL_LM'"),
        ({"modules_to_save": None}, "modules_to_save=None"),
        ({"modules_to_save": ["score", "lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora=True"),
        ({"r": 5}, "has shape"),
        ({"base_model_name_or_path": "another"}, "was made for another"),
    ],
)
def test_configurations_that_mean_something_else_are_refused(
    folder: Path, base_path: Path, changes: dict[str, Any], words: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(ArtifactError, match=words):
        read(folder, base_path)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "has shape"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "different labels"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "cannot be read"),
        ({"id2label": {"0": "a", "1": "b", "2": 3}}, "different labels"),
        ({"id2label": {"0": "a"}}, "2 to 10000 different labels"),
        ([], "does not hold an object"),
    ],
)
def test_labels_that_do_not_name_each_row_are_refused(
    folder: Path, base_path: Path, named: Any, words: str
) -> None:
    (folder / classifier.LABELS_NAME).write_text(json.dumps(named))
    with pytest.raises(ArtifactError, match=words):
        read(folder, base_path)


def test_a_head_that_is_missing_or_absurd_is_refused(
    artifact: Artifact, folder: Path, base_path: Path
) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    score = tensors.pop(head.SCORE)
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=r"lacks base_model\.model\.score"):
        read(folder, base_path)
    for wrong, words in ((score * float("nan"), "not finite"), (score * 1e6, "diverged")):
        save_file({**tensors, head.SCORE: wrong}, file)
        with pytest.raises(ArtifactError, match=words):
            read(folder, base_path)
    huge = {**artifact.tensors, head.SCORE: score * 1e6}
    with pytest.raises(ArtifactError, match="diverged"):
        classifier.check(classifier.artifact(AdapterConfig(4, 8.0, ("q_proj",)), huge, LABELS))
