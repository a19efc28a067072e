from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling import gguf_files
from modeling.base import load_base
from modeling.base_folder import check_base_folder
from modeling.llama_files import CHATML_TEMPLATE
from text.bytelevel import BYTE_TO_CHAR
from text.chat_template import ChatTemplate

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ċ Ċ", "Ġ Ġ", "a b"]


def write_gguf(path: Path, *, architecture: str = "llama", pre: str = "smollm") -> None:
    """A small llama with 4-bit, 8-bit and unquantised tensors, laid out as llama.cpp writes them."""
    writer = gguf.GGUFWriter(path, architecture)
    tokens = [*SPECIALS, *BYTE_TO_CHAR.values(), *(m.replace(" ", "") for m in MERGES)]
    while len(tokens) % 32:
        tokens.append(f"unused{len(tokens)}")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML_TEMPLATE)
    add_tensors(writer, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensors(writer: Any, vocab_size: int) -> None:
    random = np.random.default_rng(0)
    kinds = gguf.GGMLQuantizationType

    def add(name: str, *shape: int, kind: Any = kinds.Q4_1) -> None:
        values = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", vocab_size, HIDDEN, kind=kinds.Q8_0)
    add("output_norm.weight", HIDDEN, kind=kinds.F32)
    kv_size = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm.weight", HIDDEN, kind=kinds.F32)
        add(f"blk.{layer}.ffn_norm.weight", HIDDEN, kind=kinds.F32)
        add(f"blk.{layer}.attn_q.weight", HIDDEN, HIDDEN)
        add(f"blk.{layer}.attn_k.weight", kv_size, HIDDEN)
        add(f"blk.{layer}.attn_v.weight", kv_size, HIDDEN)
        add(f"blk.{layer}.attn_output.weight", HIDDEN, HIDDEN)
        add(f"blk.{layer}.ffn_gate.weight", INTERMEDIATE, HIDDEN)
        add(f"blk.{layer}.ffn_up.weight", INTERMEDIATE, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, INTERMEDIATE)


def logits_of_own_loader(path: Path, input_ids: torch.Tensor) -> torch.Tensor:
    """What transformers computes when it reads the GGUF file by itself."""
    from transformers import GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    logits: torch.Tensor = model(input_ids).logits
    return logits


@torch.no_grad()
def test_write_base_computes_what_transformers_own_loader_does(tmp_path: Path) -> None:
    path, folder = tmp_path / "tiny.gguf", tmp_path / "base"
    write_gguf(path)
    folder.mkdir()
    progress: list[tuple[int, int]] = []
    gguf_files.write_base(path, folder, lambda done, total: progress.append((done, total)))
    check_base_folder(folder)
    model = load_base(folder, precision="fp32", attn_implementation="sdpa")
    input_ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(model(input_ids).logits, logits_of_own_loader(path, input_ids))
    assert progress[-1][0] == progress[-1][1] == 4 * sum(p.numel() for p in model.parameters())


def test_write_base_tensors_start_on_cache_lines(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    gguf_files.write_base(tmp_path / "tiny.gguf", tmp_path, lambda _done, _total: None)
    with (tmp_path / "model.safetensors").open("rb") as file:
        assert (8 + int.from_bytes(file.read(8), "little")) % 64 == 0


def test_write_base_tokenizer_reads_the_same_through_transformers(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    gguf_files.write_base(tmp_path / "tiny.gguf", tmp_path, lambda _done, _total: None)
    template = ChatTemplate.load(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    text = "ab\n\n  12 é<x>"
    ids = template.tokenizer.encode(text)
    assert reference(text).input_ids == ids
    assert [reference.convert_ids_to_tokens(i) for i in ids[:5]] == ["ab", "ĊĊ", "ĠĠ", "1", "2"]
    assert template.tokenizer.eos_ids == {2}
    assert (reference.bos_token_id, reference.eos_token_id) == (1, 2)


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"architecture": "qwen2"}, "is not llama"), ({"pre": "exotic"}, "exotic is not known")],
)
def test_write_base_what_is_not_understood_is_refused(
    tmp_path: Path, change: dict[str, str], problem: str
) -> None:
    write_gguf(tmp_path / "tiny.gguf", **change)
    with pytest.raises(gguf_files.UnsupportedGGUF, match=problem):
        gguf_files.write_base(tmp_path / "tiny.gguf", tmp_path, lambda _done, _total: None)


@pytest.mark.slow
@torch.no_grad()
def test_write_base_default_base_computes_what_transformers_own_loader_does(
    smollm_gguf: Path, tmp_path: Path
) -> None:
    gguf_files.write_base(smollm_gguf, tmp_path, lambda _done, _total: None)
    template = ChatTemplate.load(tmp_path)
    messages = [{"role": "user", "content": "Name a colour."}]
    input_ids = torch.tensor([template.render(messages, add_generation_prompt=True)])
    model = load_base(tmp_path, precision="fp32", attn_implementation="sdpa")
    # Half a gigabyte that pytest would keep for three runs; the model has it mapped.
    (tmp_path / "model.safetensors").unlink()
    torch.testing.assert_close(
        model(input_ids).logits, logits_of_own_loader(smollm_gguf, input_ids)
    )
