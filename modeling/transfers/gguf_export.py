"""A merged model as one GGUF file, in F16 or Q8_0, as llama.cpp and its kin read it.

The inverse of `modeling.gguf_files`. Weights are rounded once, from fp32; norms and biases stay fp32.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, LlamaFileType

from modeling.base import head_dim

from . import gguf_vocabulary
from .gguf_vocabulary import GgufVocabulary
from .merged import Merged, OnProgress, TransferFailed

Quantization = Literal["f16", "q8_0"]
FILE_TYPES: dict[Quantization, LlamaFileType] = {
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
Q8_0_BLOCK = 32
TENSOR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class _Architecture:
    name: str
    is_permuted: bool
    """Whether heads lie in rotary pairs (0,1), (2,3)… instead of halves."""


_ARCHITECTURES = {
    "llama": _Architecture("llama", True),
    "mistral": _Architecture("llama", True),
    "qwen2": _Architecture("qwen2", False),
    "qwen3": _Architecture("qwen3", False),
}


class _Writer(gguf.GGUFWriter):
    """The library's, which also writes a list of no strings: of a tokenizer over single bytes there are no merges."""

    def _pack_val(self, val: Any, vtype: Any, *arguments: Any, **options: Any) -> bytes:
        if vtype == gguf.GGUFValueType.ARRAY and not val:
            header = (int(gguf.GGUFValueType.ARRAY), "I"), (int(gguf.GGUFValueType.STRING), "I")
            packed = b"".join(self._pack(how, each) for each, how in header)
            return bytes(packed + self._pack("Q", 0))
        return bytes(super()._pack_val(val, vtype, *arguments, **options))


def write(
    merged: Merged,
    path: Path,
    quantization: Quantization,
    on_progress: OnProgress,
    *,
    name: str,
    license: str | None,
) -> None:
    """Raises TransferFailed and OSError."""
    architecture = _architecture(merged.config)
    vocabulary = gguf_vocabulary.read(merged.base, merged.config.vocab_size)
    writer = _Writer(path, architecture.name)
    _add_general(writer, merged, FILE_TYPES[quantization], name, license)
    _add_architecture(writer, architecture, merged.config)
    _add_vocabulary(writer, vocabulary)
    kinds = {each: _kind(merged.shape(each), quantization) for each in merged.names}
    for each, kind in kinds.items():
        shape = merged.shape(each)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        num_bytes = int(np.prod(shape)) // block * block_bytes
        writer.add_tensor_info(_name_of(each), shape, np.dtype(np.float32), num_bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for each, value in merged.tensors(on_progress):
            values = value.numpy()
            if architecture.is_permuted:
                values = _permuted(each, values, merged.config)
            _write(writer, _rounded(each, values, kinds[each]))
        writer.flush()
        for file in writer.fout or ():
            os.fsync(file.fileno())
    finally:
        writer.close()


def _write(writer: _Writer, values: npt.NDArray[Any]) -> None:
    try:
        writer.write_tensor_data(values)
    except OSError as error:
        # Of a write that comes short NumPy does not say why: the disk took no more.
        raise OSError(error.errno or errno.ENOSPC, str(error)) from error


def _architecture(config: Any) -> _Architecture:
    found = _ARCHITECTURES.get(config.model_type)
    if found is None:
        raise TransferFailed(
            f"GGUF is written for bases of the types {', '.join(_ARCHITECTURES)}, and this one is of the type "
            f"{config.model_type}. Export the model with the format 'safetensors'."
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise TransferFailed(
            f"The base stretches its positions ('{rope['rope_type']}'), which is not written to GGUF here. "
            "Export the model with the format 'safetensors'."
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise TransferFailed(
            "The base attends within a sliding window, which is not written to GGUF here. Export the model "
            "with the format 'safetensors'."
        )
    return found


def _add_general(
    writer: _Writer, merged: Merged, file_type: LlamaFileType, name: str, license: str | None
) -> None:
    writer.add_type("model")
    writer.add_name(name)
    if license:
        writer.add_license(license)
    writer.add_file_type(int(file_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    num_parameters = sum(int(np.prod(merged.shape(each))) for each in merged.names)
    writer.add_size_label(gguf.size_label(num_parameters, num_parameters, 0, 0))


def _add_architecture(writer: _Writer, architecture: _Architecture, config: Any) -> None:
    size = head_dim(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_vocab_size(config.vocab_size)
    if architecture.is_permuted:
        writer.add_rope_dimension_count(size)


def _add_vocabulary(writer: _Writer, vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_key_value(gguf.Keys.Tokenizer.MERGES, vocabulary.merges, gguf.GGUFValueType.ARRAY)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_space_prefix(False)
    for add, id in (
        (writer.add_bos_token_id, vocabulary.bos_id),
        (writer.add_eos_token_id, vocabulary.eos_id),
        (writer.add_unk_token_id, vocabulary.unknown_id),
        (writer.add_pad_token_id, vocabulary.padding_id),
    ):
        if id is not None:
            add(id)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _kind(shape: tuple[int, ...], quantization: Quantization) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if quantization == "q8_0" and shape[-1] % Q8_0_BLOCK == 0:
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType.F16


def _rounded(
    name: str, values: npt.NDArray[np.float32], kind: GGMLQuantizationType
) -> npt.NDArray[Any]:
    if kind == GGMLQuantizationType.F32:
        return values
    if kind == GGMLQuantizationType.F16 and np.abs(values).max() > np.finfo(np.float16).max:
        raise TransferFailed(
            f"{name} has values beyond what F16 holds; use the format 'safetensors'"
        )
    rounded: npt.NDArray[Any] = gguf.quants.quantize(values, kind)
    return rounded


def _permuted(name: str, values: npt.NDArray[np.float32], config: Any) -> npt.NDArray[np.float32]:
    """Halves of a head, as transformers has them, to the pairs that llama.cpp turns."""
    if ".q_proj." in name:
        num_heads = config.num_attention_heads
    elif ".k_proj." in name:
        num_heads = config.num_key_value_heads
    else:
        return values
    half_dim = values.shape[0] // num_heads // 2
    halves = values.reshape(num_heads, 2, half_dim, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _name_of(name: str) -> str:
    """model.layers.0.self_attn.q_proj.weight -> blk.0.attn_q.weight"""
    stem, _, suffix = name.rpartition(".")
    prefix = ""
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        prefix = f"blk.{layer}."
    if stem not in TENSOR_NAMES or suffix not in ("weight", "bias"):
        raise TransferFailed(f"The tensor {name} has no name in GGUF that is known here.")
    return f"{prefix}{TENSOR_NAMES[stem]}.{suffix}"
