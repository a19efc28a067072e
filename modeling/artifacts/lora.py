"""The kind `lora` on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors.

Written by training, read by serving, and readable by PEFT itself. What is read may come from anyone, so
`load` refuses what it does not know how to apply exactly. PEFT's names of options are kept as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor
from transformers import PretrainedConfig

from modeling.base import head_dim

from . import peft_files
from .artifact import Artifact, ArtifactError, check_base, check_bound
from .peft_files import CONFIG_NAME, WEIGHTS_NAME

T = TypeVar("T")

KIND = "lora"

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_RANK = 512
# A base's linear layer gives back about what it gets: 0.5 to 20 times the size of a random input, and
# what training adds to it is a fraction of that. Beyond these limits an adapter says nothing, and its
# numbers may overflow on their way through the layers.
MAX_GAIN = 1000.0
MAX_WEIGHT = 1e6
MAX_SCALE = 1e6

# Options of LoraConfig that change what the tensors mean, with the values that do not.
NEUTRAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "megatron_config": (None,),
}
# Ways to start that leave the base's weights alone; PiSSA, OLoRA, CorDA, LoftQ and the like rewrite them.
NEUTRAL_INITS = (None, True, False, "gaussian", "eva", "orthogonal")

_OPTIONAL = ("use_rslora", "rank_pattern", "alpha_pattern")
_PLAIN_PATTERN = re.compile(r"\w+(\.\w+)*")
"""Of PEFT's patterns for ranks and alphas those that mean the end of a name and nothing else."""
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What adapter_config.json says. `base_revision` is empty where it is not known."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    base_model_name_or_path: str = ""
    base_revision: str = ""
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def rank_of(self, module_name: str) -> int:
        """LoRA rank of one module: its pattern's, else the common one."""
        return _of_pattern(self.rank_pattern, module_name, self.rank)

    def scale_of(self, module_name: str) -> float:
        """The factor on B @ A: alpha / rank, or alpha / sqrt(rank) with `use_rslora`."""
        alpha, rank = (
            _of_pattern(self.alpha_pattern, module_name, self.alpha),
            self.rank_of(module_name),
        )
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


LoadedAdapter = dict[str, tuple[Tensor, Tensor, float]]


def peft_name(module_name: str, side: Literal["A", "B"]) -> str:
    """PEFT's name of a tensor: model.layers.0.self_attn.q_proj -> base_model.model.….lora_A.weight"""
    return f"base_model.model.{module_name}.lora_{side}.weight"


def artifact(config: AdapterConfig, tensors: Mapping[str, Tensor]) -> Artifact:
    """Tensors named by `peft_name`, as an artifact."""
    spec = {name: getattr(config, name) for name in ("rank", "alpha")}
    spec["target_modules"] = list(config.target_modules)
    spec |= {name: value for name in _OPTIONAL if (value := getattr(config, name))}
    base, revision = config.base_model_name_or_path, config.base_revision
    return Artifact(KIND, spec, tensors, base, revision)


def layers(artifact: Artifact) -> LoadedAdapter:
    """Module name -> A (R, in), B (out, R), scale."""
    config, tensors = config_of(artifact), artifact.tensors
    matches = filter(None, map(_KEY.fullmatch, tensors))
    return {
        module: (a, tensors[peft_name(module, "B")], config.scale_of(module))
        for module, a in ((m["module"], tensors[m[0]]) for m in matches if m["side"] == "A")
    }


def check(artifact: Artifact) -> None:
    """Refuses weights that no base could bear."""
    check_magnitude(config_of(artifact), artifact.tensors)


def write(folder: Path, artifact: Artifact) -> None:
    save(folder, config_of(artifact), artifact.tensors)


def read(
    folder: Path,
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> Artifact:
    """As `load`."""
    found = load(folder, base_config, base_model=base_model, base_revision=base_revision)
    return of_layers(*found)


def of_layers(config: AdapterConfig, adapter: LoadedAdapter) -> Artifact:
    """What was read, as an artifact."""
    tensors: dict[str, Tensor] = {}
    for module, (a, b, _) in adapter.items():
        tensors |= {peft_name(module, "A"): a, peft_name(module, "B"): b}
    return artifact(config, tensors)


def config_of(artifact: Artifact) -> AdapterConfig:
    spec = {**artifact.spec, "target_modules": tuple(artifact.spec["target_modules"])}
    base, revision = artifact.base_model, artifact.base_revision
    return AdapterConfig(**spec, base_model_name_or_path=base, base_revision=revision)


def save(path_dir: Path, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
    """Writes the adapter into `path_dir` (made if missing). `tensors` are named by `peft_name`; A is
    (R, in), B is (out, R)."""
    unknown = [name for name in tensors if not _KEY.fullmatch(name)]
    if unknown:
        raise ArtifactError(f"{unknown[0]} is not a name of PEFT's")
    peft_files.write(path_dir, to_peft(config), tensors)


def load(
    path_dir: Path,
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> tuple[AdapterConfig, LoadedAdapter]:
    """Reads an adapter for the base of `base_config`: module name -> A (R, in), B (out, R), scale.

    Tensors are fp32 on the CPU. `base_model` and `base_revision`, where given, must be the ones that the
    adapter names, if it names any. Raises `ArtifactError` for anything that could not be applied exactly.
    """
    raw = peft_files.read_config(path_dir, "LORA", "LoRA adapter", NEUTRAL_OPTIONS)
    tensors = peft_files.read_tensors(path_dir)
    return understood(raw, tensors, base_config, base_model=base_model, base_revision=base_revision)


def understood(
    raw: dict[str, Any],
    tensors: Mapping[str, Tensor],
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> tuple[AdapterConfig, LoadedAdapter]:
    """What `load` gives, of a configuration and tensors that were read already."""
    config = _understood_config(raw)
    named, revision = config.base_model_name_or_path, config.base_revision
    check_base(named, revision, base_model, base_revision)
    shapes = linear_shapes(base_config)
    sides = _sides(tensors)
    adapter: LoadedAdapter = {}
    for name, pair in sides.items():
        if name not in shapes:
            raise ArtifactError(f"the base has no layer {name}, or adapters do not reach it here")
        if pair.keys() != {"A", "B"}:
            raise ArtifactError(f"{name} lacks one of lora_A and lora_B")
        (out_features, in_features), rank = shapes[name], config.rank_of(name)
        expected = {"A": (rank, in_features), "B": (out_features, rank)}
        for side, tensor in pair.items():
            if tuple(tensor.shape) != expected[side]:
                raise ArtifactError(
                    f"{name}.lora_{side} has shape {tuple(tensor.shape)} where this base and the rank need "
                    f"{expected[side]}: it was made for another base model"
                )
        adapter[name] = (pair["A"], pair["B"], config.scale_of(name))
        _check_layer(name, *adapter[name])
    return config, adapter


def check_magnitude(config: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raises `ArtifactError` for weights that no base could bear: not finite, or absurdly large.

    `tensors` are named by `peft_name`, with both sides of each layer. `load` checks the same.
    """
    for name, a in tensors.items():
        match = _KEY.fullmatch(name)
        if match is not None and match["side"] == "A":
            module = match["module"]
            _check_layer(module, a, tensors[peft_name(module, "B")], config.scale_of(module))


def _check_layer(name: str, a: Tensor, b: Tensor, scale: float) -> None:
    """The layer adds scale * B @ A; its gain is what that does to the size (RMS) of a random input."""
    a, b = a.detach().double(), b.detach().double()
    weight = max(float(a.abs().max()), float(b.abs().max()))
    # ||B A||² is the sum of (B^T B) * (A A^T): the product itself, as large as the base's, is not needed.
    norm = (
        math.sqrt(max(float(((b.T @ b) * (a @ a.T)).sum()), 0.0)) if weight <= MAX_WEIGHT else 0.0
    )
    gain = abs(scale) * norm / math.sqrt(b.shape[0])
    check_bound(name, "weights", weight, MAX_WEIGHT)
    check_bound(name, "scale", abs(scale), MAX_SCALE)
    check_bound(name, "gain", gain, MAX_GAIN)


def linear_shapes(base_config: PretrainedConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer that an adapter can reach, by module name."""
    hidden, intermediate = base_config.hidden_size, base_config.intermediate_size
    heads_size = base_config.num_attention_heads * head_dim(base_config)
    kv_size = base_config.num_key_value_heads * head_dim(base_config)
    of_layer = {
        "self_attn.q_proj": (heads_size, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, heads_size),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    return {
        f"model.layers.{layer}.{name}": shape
        for layer in range(base_config.num_hidden_layers)
        for name, shape in of_layer.items()
    }


def to_peft(config: AdapterConfig) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": list(config.target_modules),
        "base_model_name_or_path": config.base_model_name_or_path or None,
        "revision": config.base_revision or None,
        "use_rslora": config.use_rslora,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
    }


def _understood_config(raw: dict[str, Any]) -> AdapterConfig:
    if raw.get("init_lora_weights") not in NEUTRAL_INITS:
        raise ArtifactError(
            f"init_lora_weights={raw['init_lora_weights']!r} changes the base's weights; save the adapter "
            "with PEFT's path_initial_model_for_weight_conversion first"
        )
    try:
        return _from_peft(raw)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ArtifactError(f"{CONFIG_NAME} is not understood: {error}") from error


def _from_peft(raw: dict[str, Any]) -> AdapterConfig:
    targets = raw.get("target_modules") or ()
    config = AdapterConfig(
        rank=int(raw["r"]),
        alpha=float(raw["lora_alpha"]),
        target_modules=(targets,) if isinstance(targets, str) else tuple(sorted(targets)),
        base_model_name_or_path=raw.get("base_model_name_or_path") or "",
        base_revision=raw.get("revision") or "",
        use_rslora=bool(raw.get("use_rslora", False)),
        rank_pattern={str(k): int(v) for k, v in (raw.get("rank_pattern") or {}).items()},
        alpha_pattern={str(k): float(v) for k, v in (raw.get("alpha_pattern") or {}).items()},
    )
    for rank in (config.rank, *config.rank_pattern.values()):
        if not 1 <= rank <= MAX_RANK:
            raise ValueError(f"rank {rank} is not between 1 and {MAX_RANK}")
    if not all(map(math.isfinite, (config.alpha, *config.alpha_pattern.values()))):
        raise ValueError("alpha is not a finite number")
    for key in (*config.rank_pattern, *config.alpha_pattern):
        if not _PLAIN_PATTERN.fullmatch(key):
            raise ValueError(
                f"the pattern {key!r} is a regular expression; give the modules' names instead"
            )
    return config


def _sides(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """module name -> side -> fp32 tensor."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise ArtifactError(
                f"{WEIGHTS_NAME} holds {name}, which is no part of a plain LoRA adapter"
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    if not sides:
        raise ArtifactError(f"{WEIGHTS_NAME} holds no tensors")
    return sides


def _of_pattern(pattern: Mapping[str, T], module_name: str, default: T) -> T:
    """The value of the first pattern that matches a whole suffix of the name, cut at a dot."""
    for key, value in pattern.items():
        if module_name == key or module_name.endswith(f".{key}"):
            return value
    return default
