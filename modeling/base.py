"""Loads base models, frozen, and decides the precision they run in."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

Precision = Literal["fp32", "bf16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
# CPU flags that multiply bf16 natively; without one it is emulated, 30 times slower than fp32 and worse.
NATIVE_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
SELF_TEST_SIZE = 512
SELF_TEST_REPEATS = 10
# What computes it natively takes no longer than for fp32, what emulates it 30 times as long. The verdict must be the same in
# every process, however busy the machine is: a job that resumes in another precision is another job.
MAX_SELF_TEST_RATIO = 4.0

log = logging.getLogger(__name__)


def choose_device() -> torch.device:
    """CUDA where there is a device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(requested: Literal["auto"] | Precision) -> Precision:
    """What to compute in: bf16 only where the hardware multiplies it natively, fp32 otherwise.

    A request for bf16 on hardware without it gives fp32 and a warning in the log.
    """
    if requested == "fp32":
        return "fp32"
    if _has_native_bf16():
        return "bf16"
    if requested == "bf16":
        log.warning(
            "bf16 was asked for, but this hardware does not compute it natively: using fp32"
        )
    return "fp32"


def load_base(
    path: Path,
    *,
    precision: Precision,
    attn_implementation: str,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The base in folder `path`, frozen and in eval mode. Nothing is downloaded and no code of the
    folder is run; weights come from safetensors only. Raises `OSError` or
    `ValueError` if the folder holds no such model."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=DTYPES[precision],
        attn_implementation=attn_implementation,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.requires_grad_(False)
    model.to(device)  # type: ignore[arg-type]
    model.train(False)
    return model


def head_dim(config: PretrainedConfig) -> int:
    """Of one attention head's queries, keys and values; older configs do not say it."""
    said: int | None = getattr(config, "head_dim", None)
    return said or config.hidden_size // config.num_attention_heads


@lru_cache(maxsize=1)
def _has_native_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0] >= 8
    return bool(NATIVE_BF16_FLAGS & _cpu_flags()) and not _is_bf16_emulated()


def _cpu_flags() -> frozenset[str]:
    """Flags of the first processor, as Linux names them; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _is_bf16_emulated() -> bool:
    """A short product in both precisions: flags promise, this confirms."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # By turns, so that what else the machine does comes upon both.
        turns = [
            {dtype: _time_product_s(dtype) for dtype in DTYPES.values()}
            for _ in range(SELF_TEST_REPEATS)
        ]
    finally:
        torch.set_num_threads(num_threads)
    bf16_s, fp32_s = (min(t[dtype] for t in turns) for dtype in (torch.bfloat16, torch.float32))
    return bf16_s > MAX_SELF_TEST_RATIO * fp32_s


def _time_product_s(dtype: torch.dtype) -> float:
    """Of this thread's processor time, of which nothing passes while others have the processor."""
    a = torch.ones(SELF_TEST_SIZE, SELF_TEST_SIZE, dtype=dtype)
    start_s = time.thread_time()
    torch.mm(a, a)
    return time.thread_time() - start_s
