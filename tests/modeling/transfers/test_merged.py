"""A merged model, as transformers and readers of GGUF load it, against PEFT's own sum of base and adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from modeling import gguf_files
from modeling.artifacts import full, lora, model_tensors, output_layers
from modeling.artifacts.artifact import Artifact
from modeling.transfers import gguf_export, gguf_vocabulary, merged_folder
from modeling.transfers.gguf_export import Quantization
from modeling.transfers.merged import Merged, TransferFailed, base_config, read
from tests.errands.transfers.scene import adapter

IDS = torch.arange(20)[None]


@dataclass
class Case:
    """A base, and an adapter on it."""

    base: Path
    folder: Path

    @property
    def merged(self) -> Merged:
        config = Merged(self.base, Artifact(lora.KIND, _SPEC, {})).config
        return Merged(self.base, lora.read(self.folder / "adapter", config))

    def expected(self) -> Tensor:
        model = AutoModelForCausalLM.from_pretrained(self.base)
        return logits(PeftModel.from_pretrained(model, self.folder / "adapter"))

    def gguf(self, quantization: Quantization = "f16") -> Path:
        path = self.folder / f"{quantization}.gguf"
        gguf_export.write(
            self.merged, path, quantization, lambda _: None, name="a name", license="apache-2.0"
        )
        return path


_SPEC = {"rank": 1, "alpha": 1.0, "target_modules": []}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found.float()


def from_gguf(path: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return logits(model)


@pytest.fixture
def case(base_path: Path, tmp_path: Path) -> Case:
    adapter(base_path, tmp_path / "adapter")
    return Case(base_path, tmp_path)


def other_base(base_path: Path, folder: Path, config: Any) -> Path:
    """tiny-random's tokenizer, and seeded weights of another kind of model."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base_path / name, folder / name)
    return folder


_SHAPE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_a_merged_folder_loads_in_transformers(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    folder.mkdir()
    told: list[float] = []
    merged_folder.write(case.merged, folder, told.append)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    # bf16 keeps 8 bits of each weight.
    torch.testing.assert_close(
        logits(model.to(torch.float32)), case.expected(), atol=0.08, rtol=0.02
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Hi"}]
    shown = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(("quantization", "tolerance"), [("f16", 0.01), ("q8_0", 0.3)])
def test_gguf_reads_back(case: Case, quantization: Quantization, tolerance: float) -> None:
    path = case.gguf(quantization)
    found = from_gguf(path)
    torch.testing.assert_close(found, case.expected(), atol=tolerance, rtol=0.02)
    # The house's own reader gives the same weights, and the tokenizer that there was.
    folder = path.with_suffix("")
    folder.mkdir()
    gguf_files.write_base(path, folder, lambda *_: None)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), found)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        mine, before = (json.loads((each / name).read_text()) for each in (folder, case.base))
        assert mine == before
    template = "chat_template.jinja"
    assert (folder / template).read_text() == (case.base / template).read_text()


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config])
def test_gguf_of_other_shapes_of_models(
    base_path: Path, tmp_path: Path, config_class: Callable[..., Any], is_tied: bool
) -> None:
    """Llama with biases, or qwen2, which has some and whose heads are not permuted; with a head of its own or not."""
    more = {"attention_bias": True} if config_class is LlamaConfig else {}
    config = config_class(**_SHAPE, tie_word_embeddings=is_tied, **more)
    case = Case(other_base(base_path, tmp_path / "base", config), tmp_path)
    for name in ("q_proj", "k_proj", "v_proj"):
        _set_bias(case.base, name)
    adapter(case.base, tmp_path / "adapter")
    reader = gguf.GGUFReader(case.gguf())
    assert ("output.weight" in {tensor.name for tensor in reader.tensors}) is not is_tied
    if config_class is Qwen2Config:  # of llama with biases transformers does not read those
        torch.testing.assert_close(
            from_gguf(case.folder / "f16.gguf"), case.expected(), atol=0.01, rtol=0.02
        )


def _set_bias(base: Path, name: str) -> None:
    """Biases begin as zeros, and would not be missed."""
    model = AutoModelForCausalLM.from_pretrained(base)
    for layer in model.model.layers:
        bias = getattr(layer.self_attn, name).bias
        bias.data = torch.linspace(-1, 1, bias.numel())
    model.save_pretrained(base)


def test_tensors_that_stand_in_the_base_s_place_untie_its_head(
    base_path: Path, tmp_path: Path
) -> None:
    base = other_base(base_path, tmp_path / "base", LlamaConfig(**_SHAPE, tie_word_embeddings=True))
    config = base_config(base)
    shapes = output_layers.trained_shapes(config, num_blocks=1, train_head=True)
    tensors = {name: torch.full(shape, 0.25) for name, shape in shapes.items()}
    made = output_layers.artifact(tensors, num_blocks=1, train_head=True)
    output_layers.write(tmp_path / "artifact", made)
    artifact = read(tmp_path / "artifact", output_layers.KIND, base)
    folder = tmp_path / "merged"
    folder.mkdir()
    merged_folder.write(Merged(base, artifact), folder, lambda _: None)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name in shapes:
        assert bool((model.get_parameter(name) == 0.25).all())
    before = AutoModelForCausalLM.from_pretrained(base).model.embed_tokens.weight
    assert torch.equal(model.model.embed_tokens.weight, before.to(torch.bfloat16))


def test_a_fully_tuned_model_leaves_as_gguf(base_path: Path, tmp_path: Path) -> None:
    config = base_config(base_path)
    torch.manual_seed(1)
    tensors = {
        name: torch.randn(shape) * 0.1 for name, shape in model_tensors.shapes_of(config).items()
    }
    full.write(tmp_path / "artifact", full.artifact(config, tensors))
    merged = Merged(base_path, read(tmp_path / "artifact", full.KIND, base_path))
    gguf_export.write(merged, tmp_path / "m.gguf", "f16", lambda _: None, name="x", license=None)
    expected = logits(
        AutoModelForCausalLM.from_pretrained(tmp_path / "artifact", dtype=torch.float32)
    )
    torch.testing.assert_close(from_gguf(tmp_path / "m.gguf"), expected, atol=0.01, rtol=0.02)


@pytest.mark.slow
def test_the_default_base_s_vocabulary_is_the_one_that_its_gguf_had(
    smollm_path: Path, smollm_gguf: Path
) -> None:
    fields = {name: f.contents() for name, f in gguf_files.Reader(smollm_gguf).fields.items()}
    found = gguf_vocabulary.read(smollm_path, 49152)
    assert {
        "tokens": found.tokens,
        "token_type": found.types,
        "merges": found.merges,
        "pre": found.pre,
        "add_bos_token": found.adds_bos,
        "bos_token_id": found.bos_id,
        "eos_token_id": found.eos_id,
        "unknown_token_id": found.unknown_id,
        "padding_token_id": found.padding_id,
        "add_space_prefix": False,
        "model": "gpt2",
    } == {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in fields.items()
        if name.startswith("tokenizer.ggml.")
    }
    assert found.chat_template == fields["tokenizer.chat_template"]


def test_what_gguf_has_no_name_for_is_refused(case: Case, base_path: Path, tmp_path: Path) -> None:
    config = LlamaConfig(
        **_SHAPE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    )
    stretched = Case(other_base(base_path, tmp_path / "base", config), tmp_path / "other")
    adapter(stretched.base, stretched.folder / "adapter")
    with pytest.raises(TransferFailed, match="stretches its positions"):
        stretched.gguf()
    definition = json.loads((base_path / "tokenizer.json").read_text())
    definition["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Punctuation"})
    shutil.copytree(case.base, tmp_path / "odd")
    (tmp_path / "odd" / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(TransferFailed, match="splits text"):
        gguf_vocabulary.read(tmp_path / "odd", 259)


def test_a_kind_that_changes_no_weights_is_not_merged(base_path: Path) -> None:
    with pytest.raises(TransferFailed, match="'prefix' is not a change"):
        Merged(base_path, Artifact("prefix", {}, {}))
