from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from modeling import base, tiny_random
from modeling.base import choose_precision, load_base


def test_load_base_is_frozen_and_in_eval_mode(base_path: Path) -> None:
    model = load_base(base_path, precision="fp32", attn_implementation="sdpa")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"


def test_load_base_in_bf16(base_path: Path) -> None:
    model = load_base(base_path, precision="bf16", attn_implementation="sdpa")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_load_base_downloads_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        load_base(tmp_path, precision="fp32", attn_implementation="sdpa")


def test_choose_precision_follows_what_the_hardware_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_has_native_bf16", lambda: True)
    assert choose_precision("auto") == choose_precision("bf16") == "bf16"
    assert choose_precision("fp32") == "fp32"


def test_choose_precision_bf16_without_hardware_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "_has_native_bf16", lambda: False)
    assert choose_precision("auto") == "fp32"
    assert not caplog.records
    assert choose_precision("bf16") == "fp32"
    assert "not compute it natively" in caplog.text


@pytest.mark.parametrize(("ratio", "expected"), [(0.5, False), (2.0, False), (30.0, True)])
def test_a_busy_machine_s_measurement_is_no_emulation(
    monkeypatch: pytest.MonkeyPatch, ratio: float, expected: bool
) -> None:
    """Another verdict in the next process would resume a job in another precision."""
    times = {torch.float32: iter([9.0, 1.0] * 9), torch.bfloat16: iter([90.0, ratio] * 9)}
    monkeypatch.setattr(base, "_time_product_s", lambda dtype: next(times[dtype]))
    assert base._is_bf16_emulated() == expected


def test_who_waits_for_the_processor_is_not_taken_for_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each product of bf16 waits for others here, and takes as much processor time as one of fp32."""

    def product(a: torch.Tensor, _: torch.Tensor) -> None:
        if a.dtype == torch.bfloat16:
            time.sleep(0.02)
        until_s = time.thread_time() + 0.001
        while time.thread_time() < until_s:
            pass

    monkeypatch.setattr(torch, "mm", product)
    before = torch.get_num_threads()
    assert not base._is_bf16_emulated()
    assert torch.get_num_threads() == before


def test_choose_precision_here_is_one_that_was_measured() -> None:
    assert choose_precision("auto") in ("fp32", "bf16")
    if not torch.cuda.is_available() and not base.NATIVE_BF16_FLAGS & base._cpu_flags():
        assert choose_precision("bf16") == "fp32"


def test_tiny_random_is_the_same_every_time(base_path: Path, tmp_path: Path) -> None:
    tiny_random.write(tmp_path)
    # Who imported the base of this run has left a note of its own beside the files.
    for file in tmp_path.iterdir():
        assert (base_path / file.name).read_bytes() == file.read_bytes()
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert digest.startswith("a3db943080fd3d43")


@torch.no_grad()
def test_tiny_random_logits_have_a_useful_size(base_path: Path) -> None:
    model = load_base(base_path, precision="fp32", attn_implementation="sdpa")
    logits = model(torch.arange(64)[None]).logits
    assert 0.5 < logits.std() < 2


def test_tokenizer_template_and_importer_need_no_torch() -> None:
    code = (
        "import sys, text.tokenizer, text.chat_template, modeling.importer, modeling.gguf_files;"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
