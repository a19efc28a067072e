"""The engine as a library: all that it takes to generate."""

from __future__ import annotations

from pathlib import Path

from modeling.base import load_base
from serving.engine import attention
from serving.engine.engine import Engine
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Generate
from text.tokenizer import Tokenizer


def test_ten_lines_that_generate(base_path: Path, tokenizer: Tokenizer) -> None:
    model = load_base(base_path, precision="fp32", attn_implementation=attention.NAME)
    engine = Engine(model, tokenizer, num_slots=1, kv_bytes=1 << 20, max_seq_len=256)
    request = Generate(
        prompt=tokenizer.encode_prompt("Hello"),
        max_tokens=16,
        sampling=SamplingParams(temperature=1.0, seed=7),
    )
    deltas = list(engine.generate(request))
    assert "".join(delta.text for delta in deltas)
    assert deltas[-1].usage is not None
    assert 1 <= deltas[-1].usage.completion_tokens <= 16
    assert list(engine.generate(request)) == deltas
