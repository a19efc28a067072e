"""The kinds `full` and `output_layers`: weights of a base under its own names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from modeling.artifacts import full, kinds, output_layers
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.base import load_base
from tests.modeling.models import tiny_model, token_ids, with_output_layers

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def trained(model: PreTrainedModel, names: set[str] | None = None) -> dict[str, Tensor]:
    """The parameters of those names, or all, moved a little from where they were."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: p.detach() + torch.empty(p.shape).normal_(0, 0.05, generator=generator)
        for name, p in model.named_parameters()
        if names is None or name in names
    }


def tied_base(base_path: Path, folder: Path) -> Path:
    """tiny-random with its head tied to its embedding."""
    config = AutoConfig.from_pretrained(base_path, tie_word_embeddings=True)
    model = tiny_model(base_path)
    tensors = {n: p for n, p in model.named_parameters() if n != HEAD}
    full.write(folder, full.artifact(config, tensors))
    return folder


def logits_of(folder: Path) -> Tensor:
    """As whoever downloads the folder computes them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        found: Tensor = model(input_ids=token_ids(2, 12)).logits
    return found


def logits_with(model: PreTrainedModel, tensors: dict[str, Tensor]) -> Tensor:
    state = {name: tensor.to(torch.bfloat16).float() for name, tensor in tensors.items()}
    found: Tensor
    with torch.inference_mode():
        found = torch.func.functional_call(model, state, (token_ids(2, 12),)).logits
    return found


@pytest.mark.parametrize("is_tied", [False, True])
def test_transformers_loads_a_full_model_as_it_is_written(
    base_path: Path, tmp_path: Path, is_tied: bool
) -> None:
    base = tied_base(base_path, tmp_path / "base") if is_tied else base_path
    model = tiny_model(base)
    tensors = trained(model)
    saved = full.artifact(model.config, tensors)
    full.write(tmp_path / "full", saved)
    assert (HEAD in load_file(tmp_path / "full" / full.WEIGHTS_NAME)) == (not is_tied)
    assert torch.equal(logits_of(tmp_path / "full"), logits_with(model, tensors))
    read = kinds.format_of("full").read(tmp_path / "full", AutoConfig.from_pretrained(base))
    assert read.manifest() == saved.manifest()
    assert read.config == saved.config


@pytest.mark.parametrize("train_head", [False, True])
@pytest.mark.parametrize("is_tied", [False, True])
def test_output_layers_merged_into_their_base_load_with_the_head_that_was_trained(
    base_path: Path, tmp_path: Path, is_tied: bool, train_head: bool
) -> None:
    base = tied_base(base_path, tmp_path / "base") if is_tied else base_path
    base_config = AutoConfig.from_pretrained(base)
    config = output_layers.untied(base_config, train_head=train_head)
    model = load_base(base, precision="fp32", attn_implementation="sdpa")
    if is_tied and train_head:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    shapes = output_layers.trained_shapes(base_config, num_blocks=1, train_head=train_head)
    assert (HEAD in shapes) == train_head
    tensors = trained(model, set(shapes))
    assert {name: tuple(t.shape) for name, t in tensors.items()} == shapes

    saved = output_layers.artifact(
        tensors, num_blocks=1, train_head=train_head, base_model="tiny-random"
    )
    files = kinds.format_of("output_layers")
    files.check(saved)
    files.write(tmp_path / "layers", saved)
    read = files.read(tmp_path / "layers", base_config, base_model="tiny-random")
    assert read.manifest() == saved.manifest()

    merged = with_output_layers(base_config, dict(model.named_parameters()), read)
    full.write(tmp_path / "merged", merged)
    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert written["tie_word_embeddings"] == config.tie_word_embeddings
    expected = logits_with(model, {n: p.detach() for n, p in model.named_parameters()} | tensors)
    assert torch.equal(logits_of(tmp_path / "merged"), expected)
    whole = full.read(tmp_path / "merged", base_config)
    assert (HEAD in whole.tensors) == (not config.tie_word_embeddings)
    if train_head:
        assert not torch.equal(whole.tensors[HEAD], whole.tensors[EMBEDDING])


Spoil = Callable[[dict[str, Tensor], dict[str, Any]], object]


def _drop(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    del tensors["model.norm.weight"]


def _poison(value: float) -> Spoil:
    def spoil(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_drop, "lacks model.norm.weight"),
        (lambda t, _: t.update(evil=torch.ones(1).bfloat16()), "holds evil, which has no place"),
        (lambda t, _: t.update({"model.norm.weight": torch.ones(65).bfloat16()}), "shape .65,."),
        (lambda t, _: t.update({"model.norm.weight": torch.ones(64)}), "is of type F32"),
        (_poison(float("nan")), "weights of nan"),
        (_poison(float("inf")), "weights of inf"),
        (_poison(1e7), "weights of 1e.07"),
        (_poison(1e5), "gain of"),
        (lambda _, c: c.update(auto_map={"AutoConfig": "evil.py"}), "code of its own"),
        (lambda _, c: c.update(rope_parameters={"rope_theta": 1.0}), "rope_parameters"),
        (lambda _, c: c.update(model_type="gpt2"), "model_type 'gpt2'"),
        (lambda _, c: c.update(tie_word_embeddings="yes"), "tie_word_embeddings 'yes'"),
        (lambda _, c: c.update(tie_word_embeddings=True), "holds lm_head.weight"),
        (lambda _, c: c.pop("model_type"), "does not name the model type"),
    ],
)
def test_a_full_model_that_is_not_the_base_s_is_refused(
    base_path: Path, tmp_path: Path, spoil: Spoil, told: str
) -> None:
    base_config = AutoConfig.from_pretrained(base_path)
    full.write(tmp_path, full.artifact(base_config, trained(tiny_model(base_path))))
    tensors, config = (
        load_file(tmp_path / full.WEIGHTS_NAME),
        json.loads((tmp_path / full.CONFIG_NAME).read_text()),
    )
    spoil(tensors, config)
    save_file(tensors, tmp_path / full.WEIGHTS_NAME)
    (tmp_path / full.CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=told):
        full.read(tmp_path, base_config)


def layers_of(base_config: PretrainedConfig) -> Artifact:
    shapes = output_layers.trained_shapes(base_config, num_blocks=1, train_head=False)
    tensors = {name: torch.ones(shape) / 64 for name, shape in shapes.items()}
    return output_layers.artifact(
        tensors, num_blocks=1, train_head=False, base_model="tiny-random", base_revision="1"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_blocks": 2}, "lacks model.layers.0"),
        ({"num_blocks": 3}, "not between 1 and the base's 2"),
        ({"num_blocks": 0}, "not between 1 and the base's 2"),
        ({"num_blocks": True}, "num_blocks True, which is no int"),
        ({"train_head": True}, "lacks lm_head.weight"),
        ({"train_head": None}, "train_head None"),
        ({"base_model": "another"}, "made for another, not for tiny-random"),
        ({"base_revision": "2"}, "made for revision 2 of tiny-random, not 1"),
        ({"base_model": 7}, "base_model 7"),
    ],
)
def test_output_layers_of_another_base_are_refused(
    base_path: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    base_config = AutoConfig.from_pretrained(base_path)
    output_layers.write(tmp_path, layers_of(base_config))
    path = tmp_path / output_layers.CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=told):
        output_layers.read(tmp_path, base_config, base_model="tiny-random", base_revision="1")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b" " * (2 << 20)])
def test_files_that_cannot_be_read_are_refused(
    base_path: Path, tmp_path: Path, content: bytes
) -> None:
    base_config = AutoConfig.from_pretrained(base_path)
    output_layers.write(tmp_path, layers_of(base_config))
    for name in (output_layers.WEIGHTS_NAME, output_layers.CONFIG_NAME):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            output_layers.read(tmp_path, base_config)


def test_weights_without_bounds_are_not_written_by_training(base_path: Path) -> None:
    tensors = trained(tiny_model(base_path))
    tensors["model.norm.weight"][0] = float("nan")
    config = AutoConfig.from_pretrained(base_path)
    with pytest.raises(ArtifactError, match="the training it comes from diverged"):
        kinds.format_of("full").check(full.artifact(config, tensors))
