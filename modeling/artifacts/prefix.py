"""The kind `prefix` on disk, in PEFT's format of prefix tuning: what each attention layer sees before a text.

A prefix is V virtual tokens, of which every layer has a key and a value for each of its key heads. Its one tensor,
`prompt_embeddings` (V, L * 2 * K * D), holds a virtual token in a row: layer by layer first the key, then the value. Keys are as
attention sees them, rotated to the positions 0 to V - 1; the text begins at position V. What is read may come
from anyone, so `read` refuses what does not fit the base exactly.

Dimensions: V virtual tokens, L layers, K key heads, D per head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from modeling.base import head_dim

from . import peft_files
from .artifact import Artifact, ArtifactError, check_base, check_bound
from .peft_files import CONFIG_NAME, WEIGHTS_NAME

KIND = "prefix"

TENSOR = "prompt_embeddings"
MAX_VIRTUAL_TOKENS = 4096
# Bases have keys of up to some hundred where their projection has a bias, and values of far less. Beyond
# this a prefix says nothing, and its numbers may overflow on their way through the layers.
MAX_VALUE = 1e4

# Options of PrefixTuningConfig that change what the tensor means, with the values that do not. With a
# projection PEFT stores what came out of it, so that is no other format.
NEUTRAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "task_type": (None, "CAUSAL_LM"),
    "num_transformer_submodules": (None, 1),
    "modules_to_save": (None, []),
}
_SHAPE = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
"""PEFT's names of V, L, K and K * D."""


def artifact(keys_values: Tensor, base_model: str = "", base_revision: str = "") -> Artifact:
    """Keys and values (V, L, 2, K, D), as an artifact."""
    num_virtual_tokens, num_layers, _, num_heads, size = keys_values.shape
    spec = _spec(num_virtual_tokens, num_layers, num_heads, size)
    return Artifact(KIND, spec, {TENSOR: keys_values.flatten(1)}, base_model, base_revision)


def keys_values(artifact: Artifact) -> Tensor:
    """(V, L, 2, K, D) float32, on the CPU."""
    num_virtual_tokens, num_layers, num_heads, _ = (artifact.spec[name] for name in _SHAPE)
    return artifact.tensors[TENSOR].view(num_virtual_tokens, num_layers, 2, num_heads, -1)


def check(artifact: Artifact) -> None:
    """Refuses weights that no base could bear."""
    check_bound(TENSOR, "values", float(artifact.tensors[TENSOR].abs().max()), MAX_VALUE)


def write(folder: Path, artifact: Artifact) -> None:
    config = {
        **artifact.spec,
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": artifact.base_model or None,
        "revision": artifact.base_revision or None,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": artifact.spec["token_dim"],
        "prefix_projection": False,
        "inference_mode": True,
        "modules_to_save": None,
    }
    peft_files.write(folder, config, artifact.tensors)


def read(
    folder: Path,
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> Artifact:
    """For the base of `base_config`. `base_model` and `base_revision`, where given, must be the ones that the
    prefix names, if it names any. Raises `ArtifactError`.
    """
    config = peft_files.read_config(folder, "PREFIX_TUNING", "prefix", NEUTRAL_OPTIONS)
    named, revision = (
        str(config.get(key) or "") for key in ("base_model_name_or_path", "revision")
    )
    check_base(named, revision, base_model, base_revision)
    num_virtual_tokens = config.get("num_virtual_tokens")
    if type(num_virtual_tokens) is not int or not 1 <= num_virtual_tokens <= MAX_VIRTUAL_TOKENS:
        raise ArtifactError(
            f"{CONFIG_NAME} has num_virtual_tokens={num_virtual_tokens!r}, which is not between 1 and "
            f"{MAX_VIRTUAL_TOKENS}"
        )
    spec = _spec(num_virtual_tokens, *shape(base_config))
    for name, expected in spec.items():
        if config.get(name) != expected:
            raise ArtifactError(
                f"{CONFIG_NAME} has {name}={config.get(name)!r} where this base needs {expected}: it was "
                "made for another base model"
            )
    tensors = peft_files.read_tensors(folder)
    if tensors.keys() != {TENSOR}:
        raise ArtifactError(f"{WEIGHTS_NAME} must hold {TENSOR} and nothing else")
    found = tuple(tensors[TENSOR].shape)
    needed = (num_virtual_tokens, 2 * spec["num_layers"] * spec["token_dim"])
    if found != needed:
        raise ArtifactError(f"{TENSOR} has shape {found} where {needed} is needed")
    read = Artifact(KIND, spec, tensors, named, revision)
    check(read)
    return read


def shape(base_config: PretrainedConfig) -> tuple[int, int, int]:
    """L, K, D of a base."""
    num_heads = base_config.num_attention_heads
    num_kv_heads = getattr(base_config, "num_key_value_heads", None) or num_heads
    return base_config.num_hidden_layers, num_kv_heads, head_dim(base_config)


def _spec(num_virtual_tokens: int, num_layers: int, num_heads: int, size: int) -> dict[str, int]:
    numbers = (num_virtual_tokens, num_layers, num_heads, num_heads * size)
    return dict(zip(_SHAPE, numbers, strict=True))
