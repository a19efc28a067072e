from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from modeling.artifacts import kinds, peft_files, prefix
from modeling.artifacts.artifact import Artifact, ArtifactError
from tests.modeling.models import tiny_model, token_ids

V = 5


@pytest.fixture(scope="module")
def base_config(base_path: Path) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(base_path)
    return config


def random_prefix(base_config: PretrainedConfig, num_virtual_tokens: int = V) -> Artifact:
    num_layers, num_heads, head_dim = prefix.shape(base_config)
    shape = (num_virtual_tokens, num_layers, 2, num_heads, head_dim)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return prefix.artifact(values, "tiny-random", "1")


def written(folder: Path, base_config: PretrainedConfig, **peft_options: Any) -> Path:
    """A prefix whose adapter_config.json is changed behind the writer's back."""
    prefix.write(folder, random_prefix(base_config))
    path = folder / peft_files.CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | peft_options))
    return folder


def test_a_prefix_is_read_as_it_was_written(base_config: PretrainedConfig, tmp_path: Path) -> None:
    saved = random_prefix(base_config)
    files = kinds.format_of("prefix")
    files.check(saved)
    files.write(tmp_path / "new" / "folder", saved)
    read = files.read(
        tmp_path / "new" / "folder", base_config, base_model="tiny-random", base_revision="1"
    )
    assert read.manifest() == saved.manifest()
    assert read.spec["num_virtual_tokens"] == V
    assert (read.base_model, read.base_revision) == ("tiny-random", "1")
    assert torch.equal(prefix.keys_values(read), prefix.keys_values(saved))


def test_peft_computes_with_the_file_what_the_base_computes_behind_its_keys_and_values(
    base_path: Path, base_config: PretrainedConfig, tmp_path: Path
) -> None:
    """Keys and values of a text stand for that text: PEFT's logits behind them are those behind it."""
    model = tiny_model(base_path)
    text, row = token_ids(1, V), token_ids(2, 9, seed=1)
    output = model(input_ids=text, use_cache=True)
    cache = output.get("cache") or output.past_key_values
    by_layer = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
    saved = prefix.artifact(
        torch.stack(by_layer).permute(3, 0, 1, 2, 4).contiguous()
    )  # from (L, 2, K, V, D)
    prefix.write(tmp_path, saved)
    plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    peer: Any = peft.PeftModel.from_pretrained(plain, tmp_path)
    with torch.no_grad():
        logits = peer(input_ids=row, attention_mask=torch.ones_like(row)).logits
        whole = torch.cat([text.expand(2, -1), row], dim=1)
        expected = model(input_ids=whole, use_cache=False).logits[:, V:]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("projection", [False, True])
def test_what_peft_saves_is_read(
    base_path: Path, base_config: PretrainedConfig, tmp_path: Path, projection: bool
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    options = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=V, prefix_projection=projection
    )
    peer: Any = peft.get_peft_model(plain, options)
    peer.save_pretrained(tmp_path)
    (kept,) = safetensors.torch.load_file(tmp_path / peft_files.WEIGHTS_NAME).values()
    read = prefix.read(tmp_path, base_config)
    assert torch.equal(read.tensors[prefix.TENSOR], kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "LORA"}, "does not describe a prefix: its peft_type is 'LORA'"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "task_type='SEQ_2_SEQ_LM' are not supported"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules=2 are not supported"),
        ({"modules_to_save": ["score"]}, "modules_to_save"),
        ({"num_virtual_tokens": 0}, "not between 1 and"),
        ({"num_virtual_tokens": True}, "not between 1 and"),
        ({"num_virtual_tokens": 10**9}, "not between 1 and"),
        ({"num_virtual_tokens": V + 1}, "has shape"),
        ({"num_layers": 3}, "num_layers=3 where this base needs 2"),
        ({"num_attention_heads": 4}, "num_attention_heads=4 where this base needs 2"),
        ({"token_dim": None}, "token_dim=None where this base needs 32"),
        ({"base_model_name_or_path": "another"}, "was made for another, not for tiny-random"),
        ({"revision": "2"}, "was made for revision 2 of tiny-random, not 1"),
    ],
)
def test_what_does_not_fit_the_base_is_refused(
    base_config: PretrainedConfig, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    folder = written(tmp_path, base_config, **options)
    with pytest.raises(ArtifactError, match=message):
        prefix.read(folder, base_config, base_model="tiny-random", base_revision="1")


def _with(name: str, value: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensor = torch.zeros(V, 128, dtype=dtype)
    tensor[2, 3] = value
    return {name: tensor}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "nothing else"),
        (_with("prompt", 0), "nothing else"),
        (_with(prefix.TENSOR, 0) | _with("more", 0), "nothing else"),
        ({prefix.TENSOR: torch.zeros(V, 64)}, "has shape"),
        ({prefix.TENSOR: torch.zeros(128 * V)}, "has shape"),
        (_with(prefix.TENSOR, 1, torch.int32), "not finite"),
        (_with(prefix.TENSOR, float("nan")), "not finite"),
        (_with(prefix.TENSOR, float("-inf"), torch.bfloat16), "not finite"),
        (_with(prefix.TENSOR, 1e300, torch.float64), "not finite"),
        (_with(prefix.TENSOR, -1.1e4), "more than any base bears"),
    ],
)
def test_weights_that_no_base_bears_are_refused(
    base_config: PretrainedConfig, tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    folder = written(tmp_path, base_config)
    safetensors.torch.save_file(tensors, folder / peft_files.WEIGHTS_NAME)
    with pytest.raises(ArtifactError, match=message):
        prefix.read(folder, base_config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_of_a_training_that_diverged_are_not_kept(
    base_config: PretrainedConfig, value: float
) -> None:
    diverged = random_prefix(base_config)
    diverged.tensors[prefix.TENSOR][1, 1] = value
    with pytest.raises(ArtifactError, match="diverged"):
        prefix.check(diverged)


@pytest.mark.parametrize("name", [peft_files.CONFIG_NAME, peft_files.WEIGHTS_NAME])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff" * 64])
def test_files_that_are_none_are_refused(
    base_config: PretrainedConfig, tmp_path: Path, name: str, content: bytes
) -> None:
    (written(tmp_path, base_config) / name).write_bytes(content)
    with pytest.raises(ArtifactError):
        prefix.read(tmp_path, base_config)
