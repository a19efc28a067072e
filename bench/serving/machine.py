"""What machine this is, and how fast it reads memory."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import peft
import torch
import transformers

from modeling.base import choose_precision

TOLD_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
READ_BYTES = 512 << 20
READ_ROUNDS = 9


def describe() -> dict[str, object]:
    name, flags = _processor()
    return {
        "processor": name,
        "flags": " ".join(flag for flag in TOLD_FLAGS if flag in flags),
        "processors": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "precision": choose_precision("auto"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
    }


def read_bytes_per_s() -> float:
    """By summing up more numbers than any cache holds, with torch's threads; the best of some rounds."""
    numbers = torch.ones(READ_BYTES // 4)
    best_s = float("inf")
    for _ in range(READ_ROUNDS):
        began_s = time.perf_counter()
        numbers.sum()
        best_s = min(best_s, time.perf_counter() - began_s)
    return READ_BYTES / best_s


def _processor() -> tuple[str, frozenset[str]]:
    """Its name and flags as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name", platform.machine())
    if "cpu family" in told:
        name += f" (family {told['cpu family']}, model {told['model']})"
    return name, frozenset((told.get("flags") or told.get("Features", "")).split())
