from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from modeling.artifacts import lora, peft_files
from modeling.artifacts.artifact import ArtifactError
from modeling.artifacts.lora import AdapterConfig, linear_shapes, peft_name
from modeling.trainable import lora as trainable
from tests.modeling.models import randomise, tiny_model, token_ids

Q0 = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base_config(base_path: Path) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(base_path)
    return config


def config(**changes: Any) -> AdapterConfig:
    options: dict[str, Any] = {"rank": 4, "alpha": 8.0, "target_modules": ("q_proj",)}
    return AdapterConfig(**{**options, "base_model_name_or_path": "tiny-random", **changes})


def tensors(rank: int = 4, module: str = Q0) -> dict[str, Tensor]:
    return {
        peft_name(module, "A"): torch.randn(rank, 64),
        peft_name(module, "B"): torch.randn(64, rank),
    }


def save(
    folder: Path, *, with_tensors: dict[str, Tensor] | None = None, **peft_options: Any
) -> Path:
    """An adapter whose adapter_config.json is changed behind the writer's back."""
    lora.save(folder, config(), with_tensors or tensors())
    path = folder / peft_files.CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | peft_options))
    return folder


def test_save_then_load_gives_the_same_back(tmp_path: Path, base_config: PretrainedConfig) -> None:
    saved_config, saved = config(base_revision="1"), tensors()
    lora.save(tmp_path / "new" / "folder", saved_config, saved)
    loaded_config, adapter = lora.load(tmp_path / "new" / "folder", base_config)
    assert loaded_config == saved_config
    (name, (a, b, scale)), *others = adapter.items()
    assert (name, scale, others) == (Q0, 2.0, [])
    assert torch.equal(a, saved[peft_name(Q0, "A")])
    assert torch.equal(b, saved[peft_name(Q0, "B")])


@torch.no_grad()
def test_saved_adapter_computes_the_same_through_peft(base_path: Path, tmp_path: Path) -> None:
    model = tiny_model(base_path)
    modules = trainable.attach(model, 8, 16.0, lora.TARGET_MODULES, seed=1)
    randomise(modules)
    saved_config = config(rank=8, alpha=16.0, target_modules=lora.TARGET_MODULES)
    lora.save(tmp_path, saved_config, trainable.tensors(modules))
    logits = model(token_ids(1, 16)).logits
    reference = peft.PeftModel.from_pretrained(tiny_model(base_path), str(tmp_path))
    torch.testing.assert_close(reference(token_ids(1, 16)).logits, logits)


def test_adapter_that_peft_saved_loads(
    base_path: Path, tmp_path: Path, base_config: PretrainedConfig
) -> None:
    options = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"layers.1.mlp.down_proj": 2},
        alpha_pattern={"q_proj": 3},
        use_rslora=True,
    )
    peft.get_peft_model(tiny_model(base_path), options).save_pretrained(str(tmp_path))
    loaded_config, adapter = lora.load(tmp_path, base_config)
    assert loaded_config.target_modules == ("down_proj", "q_proj")
    assert adapter[Q0][2] == 3 / math.sqrt(4)
    assert adapter["model.layers.0.mlp.down_proj"][2] == 8 / math.sqrt(4)
    assert adapter["model.layers.1.mlp.down_proj"][0].shape == (2, 128)
    assert adapter["model.layers.1.mlp.down_proj"][2] == 8 / math.sqrt(2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 2]]),
        ("fan_in_fan_out", True),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["x"]),
        ("use_bdlora", {"a": 1}),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("peft_type", "IA3"),
        ("r", 0),
        ("r", 100_000),
        ("r", "many"),
        ("lora_alpha", float("inf")),
    ],
)
def test_load_option_that_changes_the_meaning_is_refused(
    tmp_path: Path, base_config: PretrainedConfig, option: str, value: Any
) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ArtifactError):
        lora.load(save(tmp_path, **options), base_config)


def test_every_option_of_peft_is_either_known_or_harmless() -> None:
    """A new option of a newer peft must be looked at before adapters that use it are applied."""
    understood = {
        "r",
        "lora_alpha",
        "target_modules",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
    }
    understood |= {
        "base_model_name_or_path",
        "revision",
        "init_lora_weights",
        "peft_type",
        "task_type",
    }
    # They matter while training, or choose among modules that the tensors name anyway.
    harmless = {"auto_mapping", "peft_version", "inference_mode", "exclude_modules", "lora_dropout"}
    harmless |= {
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "loftq_config",
        "eva_config",
    }
    harmless |= {"corda_config", "lora_ga_config", "qalora_group_size", "runtime_config"}
    harmless |= {"ensure_weight_tying"}
    options = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert options <= understood | harmless | lora.NEUTRAL_OPTIONS.keys()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({peft_name(Q0, "A"): torch.zeros(4, 64)}, "lacks one of"),
        (tensors(rank=5), "another base model"),
        (tensors(module="model.layers.9.self_attn.q_proj"), "has no layer"),
        (tensors(module="lm_head"), "has no layer"),
        ({**tensors(), peft_name(Q0, "B"): torch.full((64, 4), math.nan)}, "not finite"),
        ({**tensors(), peft_name(Q0, "B"): torch.zeros(64, 4, dtype=torch.int8)}, "not finite"),
    ],
)
def test_load_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, base_config: PretrainedConfig, bad: dict[str, Tensor], problem: str
) -> None:
    with pytest.raises(ArtifactError, match=problem):
        lora.load(save(tmp_path, with_tensors=bad), base_config)


def test_load_foreign_tensor_names_are_refused(
    tmp_path: Path, base_config: PretrainedConfig
) -> None:
    save(tmp_path)
    safetensors.torch.save_file(
        {f"base_model.model.{Q0}.lora_magnitude_vector": torch.zeros(4)},
        tmp_path / peft_files.WEIGHTS_NAME,
    )
    with pytest.raises(ArtifactError, match="no part of a plain LoRA adapter"):
        lora.load(tmp_path, base_config)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ((1 << 40).to_bytes(8, "little"), "too large"),
        (b"", "cannot be read"),
        (b"\x10\0\0\0\0\0\0\0not json at all!", "cannot be read"),
    ],
)
def test_load_weights_file_that_is_broken_is_refused(
    tmp_path: Path, base_config: PretrainedConfig, content: bytes, problem: str
) -> None:
    (save(tmp_path) / peft_files.WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match=problem):
        lora.load(tmp_path, base_config)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, " " * 2_000_000])
def test_load_config_file_that_is_broken_is_refused(
    tmp_path: Path, base_config: PretrainedConfig, content: str
) -> None:
    (save(tmp_path) / peft_files.CONFIG_NAME).write_text(content)
    with pytest.raises(ArtifactError):
        lora.load(tmp_path, base_config)


def test_load_adapter_of_another_base_is_refused(
    tmp_path: Path, base_config: PretrainedConfig
) -> None:
    lora.save(tmp_path, config(base_revision="1"), tensors())
    lora.load(tmp_path, base_config, base_model="tiny-random", base_revision="1")
    with pytest.raises(ArtifactError, match="made for tiny-random, not for other"):
        lora.load(tmp_path, base_config, base_model="other")
    with pytest.raises(ArtifactError, match="revision 1 of tiny-random, not 2") as caught:
        lora.load(tmp_path, base_config, base_model="tiny-random", base_revision="2")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_save_name_that_is_not_pefts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"layer\.lora_A is not a name"):
        lora.save(tmp_path, config(), {"layer.lora_A": torch.zeros(1)})


def test_linear_shapes_are_those_of_the_model(
    base_path: Path, base_config: PretrainedConfig
) -> None:
    modules = dict(tiny_model(base_path).named_modules())
    shapes = linear_shapes(base_config)
    assert len(shapes) == 14
    for name, shape in shapes.items():
        assert modules[name].weight.shape == shape


@pytest.mark.parametrize(
    ("a", "b", "alpha", "words"),
    [
        (math.nan, 1.0, 8.0, "finite"),
        (1.0, math.inf, 8.0, "finite"),
        (1e22, 1.0, 8.0, "weights of 1e\\+22"),
        (1e38, 0.0, 8.0, "weights of 1e\\+38"),
        # Zeros times a scale that overflows fp32 are no zeros.
        (1.0, 0.0, 1e300, "scale of"),
        (100.0, 100.0, 8.0, "gain of"),
    ],
)
def test_adapter_that_no_base_could_bear_is_refused(
    a: float,
    b: float,
    alpha: float,
    words: str,
    tmp_path: Path,
    base_config: PretrainedConfig,
) -> None:
    made = {peft_name(Q0, "A"): torch.full((4, 64), a), peft_name(Q0, "B"): torch.full((64, 4), b)}
    with pytest.raises(ArtifactError, match="of nan|of inf" if words == "finite" else words):
        lora.check_magnitude(config(alpha=alpha), made)
    lora.save(tmp_path, config(alpha=alpha), made)
    with pytest.raises(ArtifactError, match=words):
        lora.load(tmp_path, base_config)


def test_gain_is_what_a_layer_does_to_the_size_of_its_input() -> None:
    a, b = torch.randn(4, 64), torch.randn(32, 4)
    x = torch.randn(64, 20000)
    measured = float((2 * b @ a @ x).norm() / x.norm() * math.sqrt(64 / 32))
    made = {peft_name(Q0, "A"): a, peft_name(Q0, "B"): b}
    limit = lora.MAX_GAIN / measured
    lora.check_magnitude(config(alpha=8.0 * limit * 0.97), made)
    with pytest.raises(ArtifactError, match="gain"):
        lora.check_magnitude(config(alpha=8.0 * limit * 1.03), made)
