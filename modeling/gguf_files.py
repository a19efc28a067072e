"""Turns a GGUF file of the llama architecture into a base folder of safetensors and JSON, without torch.

Weights are dequantised to fp32 exactly as the file defines them: nothing is rounded a second time.
The tokenizer is rebuilt from the file's vocabulary with the pre-tokenizer that the file only names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from .llama_files import llama_config, tokenizer_config, tokenizer_definition
from .safetensors_header import header

Float32s = npt.NDArray[np.float32]

# tokenizer.ggml.pre -> whether each digit is a token of its own before byte-level BPE.
SPLITS_DIGITS = {"smollm": True, "gpt-2": False}
CONTROL_TOKEN = 3

TENSOR_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class UnsupportedGGUF(Exception):
    """The file holds an architecture, a tokenizer or a tensor that is not understood."""


class Reader(gguf.GGUFReader):
    """The library's reader, 2.5 times as fast: slices of a plain array instead of a memmap object."""

    def _get(self, *arguments: Any, **options: Any) -> Any:
        if isinstance(self.data, np.memmap):
            self.data = self.data.view(np.ndarray)  # type: ignore[assignment]
        return super()._get(*arguments, **options)


def write_base(gguf_path: Path, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Writes config, tokenizer, chat template and weights of `gguf_path` into the existing `folder`.

    One tensor is in memory at a time. `on_progress(done, total)` counts bytes of weights. Raises
    `UnsupportedGGUF`.
    """
    reader = Reader(gguf_path)
    write_configuration(reader, folder)
    write_weights(reader, folder, on_progress)


def write_configuration(reader: Reader, folder: Path) -> None:
    """Everything but the weights: config, generation config, tokenizer and chat template."""
    metadata = _Metadata(reader)
    if metadata["general.architecture"] != "llama":
        raise UnsupportedGGUF(f"architecture {metadata['general.architecture']!r} is not llama")
    for name, content in _json_files(reader, metadata).items():
        indent = None if name == "tokenizer.json" else 2
        text = json.dumps(content, ensure_ascii=False, indent=indent)
        (folder / name).write_text(text, encoding="utf-8")
    template = metadata["tokenizer.chat_template"]
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


class _Metadata:
    """The key-value part of the file."""

    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise UnsupportedGGUF(f"the file has no {key}")
        return self._fields[key].contents()


def _json_files(reader: Any, metadata: _Metadata) -> dict[str, Any]:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    pre = metadata["tokenizer.ggml.pre"]
    if metadata["tokenizer.ggml.model"] != "gpt2" or pre not in SPLITS_DIGITS:
        raise UnsupportedGGUF(f"tokenizer {metadata['tokenizer.ggml.model']}/{pre} is not known")
    types = metadata["tokenizer.ggml.token_type"]
    special = {tokens[i]: i for i, kind in enumerate(types) if kind == CONTROL_TOKEN}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    ids = {
        name: metadata[f"tokenizer.ggml.{name}_token_id"]
        for name in ("bos", "eos", "unknown", "padding")
    }
    max_positions_tokens = metadata["llama.context_length"]
    config = llama_config(
        vocab_size=len(tokens),
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_layers=metadata["llama.block_count"],
        num_heads=metadata["llama.attention.head_count"],
        num_kv_heads=metadata["llama.attention.head_count_kv"],
        max_positions_tokens=max_positions_tokens,
        rope_theta=metadata["llama.rope.freq_base"],
        rms_norm_eps=_shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        bos_id=ids["bos"],
        eos_id=ids["eos"],
    )
    return {
        "config.json": config,
        "generation_config.json": {
            "bos_token_id": ids["bos"],
            "eos_token_id": ids["eos"],
            "pad_token_id": ids["padding"],
        },
        "tokenizer.json": tokenizer_definition(
            {token: i for i, token in enumerate(tokens)},
            merges,
            special,
            splits_digits=SPLITS_DIGITS[pre],
        ),
        "tokenizer_config.json": tokenizer_config(
            bos=tokens[ids["bos"]],
            eos=tokens[ids["eos"]],
            unk=tokens[ids["unknown"]],
            pad=tokens[ids["padding"]],
            max_positions_tokens=max_positions_tokens,
        ),
    }


def _shortest(value: float) -> float:
    """The decimal number that was stored as fp32: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def write_weights(reader: Reader, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """As safetensors, each tensor as it is read."""
    metadata = _Metadata(reader)
    names = {_name_of(tensor.name): tensor for tensor in reader.tensors}
    shapes = {
        name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in names.items()
    }
    beginning, total_bytes = header(shapes, "F32")
    done_bytes = 0
    with (folder / "model.safetensors").open("wb") as file:
        file.write(beginning)
        for name, values in _dequantised(names, metadata):
            if values.shape != shapes[name]:
                raise UnsupportedGGUF(f"{name} has shape {values.shape}, not {shapes[name]}")
            np.ascontiguousarray(values, dtype="<f4").tofile(file)
            done_bytes += values.nbytes
            on_progress(done_bytes, total_bytes)
        file.flush()
        os.fsync(file.fileno())


def _dequantised(names: dict[str, Any], metadata: _Metadata) -> Iterator[tuple[str, Float32s]]:
    num_heads = metadata["llama.attention.head_count"]
    num_kv_heads = metadata["llama.attention.head_count_kv"]
    for name, tensor in names.items():
        values: Float32s = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if ".q_proj." in name:
            values = _unpermute(values, num_heads)
        elif ".k_proj." in name:
            values = _unpermute(values, num_kv_heads)
        yield name, values


def _unpermute(weight: Float32s, num_heads: int) -> Float32s:
    """Rotary pairs (0,1), (2,3)… of a GGUF head back to the halves (0, d/2), (1, d/2+1)… of transformers."""
    rows, columns = weight.shape
    half_dim = rows // num_heads // 2
    return weight.reshape(num_heads, half_dim, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _name_of(gguf_name: str) -> str:
    """blk.0.attn_q.weight -> model.layers.0.self_attn.q_proj.weight"""
    stem, _, suffix = gguf_name.rpartition(".")
    prefix = ""
    if stem.startswith("blk."):
        _, layer, stem = stem.split(".", 2)
        prefix = f"model.layers.{layer}."
    if stem not in TENSOR_NAMES or suffix != "weight":
        raise UnsupportedGGUF(f"tensor {gguf_name!r} is not known")
    return f"{prefix}{TENSOR_NAMES[stem]}.{suffix}"
