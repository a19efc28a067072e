"""A seeded, random two-layer Llama with a byte-level tokenizer: a base model for tests and trials.

It is written as files, so everything treats it as any other base. It needs neither torch nor a download.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from text.bytelevel import BYTE_TO_CHAR

from .llama_files import CHATML_TEMPLATE, llama_config, tokenizer_config, tokenizer_definition

SEED = 20_250_101
HIDDEN_SIZE = 64
INTERMEDIATE_SIZE = 128
NUM_LAYERS = 2
NUM_HEADS = 4
NUM_KV_HEADS = 2
MAX_POSITIONS_TOKENS = 2048
# Ids 0..255 are the bytes themselves; the special tokens follow.
SPECIAL_TOKENS = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)


def write(path: Path) -> None:
    """Writes the base folder `path` (made if missing). The same bytes on every machine and run."""
    path.mkdir(parents=True, exist_ok=True)
    bos, eos = "<|im_start|>", "<|im_end|>"
    vocab = {BYTE_TO_CHAR[byte]: byte for byte in range(256)} | SPECIAL_TOKENS
    files = {
        "config.json": llama_config(
            vocab_size=VOCAB_SIZE,
            hidden_size=HIDDEN_SIZE,
            intermediate_size=INTERMEDIATE_SIZE,
            num_layers=NUM_LAYERS,
            num_heads=NUM_HEADS,
            num_kv_heads=NUM_KV_HEADS,
            max_positions_tokens=MAX_POSITIONS_TOKENS,
            rope_theta=10_000.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            bos_id=SPECIAL_TOKENS[bos],
            eos_id=SPECIAL_TOKENS[eos],
        ),
        "generation_config.json": {
            "bos_token_id": SPECIAL_TOKENS[bos],
            "eos_token_id": SPECIAL_TOKENS[eos],
        },
        "tokenizer.json": tokenizer_definition(vocab, [], SPECIAL_TOKENS, splits_digits=False),
        "tokenizer_config.json": tokenizer_config(
            bos=bos,
            eos=eos,
            unk="<|endoftext|>",
            pad=eos,
            max_positions_tokens=MAX_POSITIONS_TOKENS,
        ),
    }
    for name, content in files.items():
        (path / name).write_text(
            json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8"
        )
    (path / "chat_template.jinja").write_text(CHATML_TEMPLATE, encoding="utf-8")
    save_file(_tensors(), path / "model.safetensors", metadata={"format": "pt"})


def _tensors() -> dict[str, np.ndarray]:
    """Weights by name, fp32, scaled so that activations keep their size and logits have unit variance."""
    head_dim = HIDDEN_SIZE // NUM_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN_SIZE),
        "model.norm.weight": (HIDDEN_SIZE,),
        "lm_head.weight": (VOCAB_SIZE, HIDDEN_SIZE),
    }
    for layer in range(NUM_LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (HIDDEN_SIZE,),
            f"{prefix}.post_attention_layernorm.weight": (HIDDEN_SIZE,),
            f"{prefix}.self_attn.q_proj.weight": (NUM_HEADS * head_dim, HIDDEN_SIZE),
            f"{prefix}.self_attn.k_proj.weight": (NUM_KV_HEADS * head_dim, HIDDEN_SIZE),
            f"{prefix}.self_attn.v_proj.weight": (NUM_KV_HEADS * head_dim, HIDDEN_SIZE),
            f"{prefix}.self_attn.o_proj.weight": (HIDDEN_SIZE, NUM_HEADS * head_dim),
            f"{prefix}.mlp.gate_proj.weight": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
            f"{prefix}.mlp.up_proj.weight": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
            f"{prefix}.mlp.down_proj.weight": (HIDDEN_SIZE, INTERMEDIATE_SIZE),
        }
    generator = np.random.Generator(np.random.Philox(SEED))
    tensors = {}
    for name, shape in shapes.items():
        is_norm = len(shape) == 1
        values = (
            np.ones(shape) if is_norm else generator.standard_normal(shape) / np.sqrt(shape[-1])
        )
        tensors[name] = values.astype(np.float32)
    return tensors
