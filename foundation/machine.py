"""What kind of machine this is."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Of processors that multiply such numbers themselves; the trainer looks closer (`modeling/base.py`)."""


@cache
def processor() -> str:
    return _line(_CPUINFO, "model name") or platform.processor()


@cache
def gpu() -> str:
    """As NVIDIA's driver names them; empty where there is none."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return ", ".join(filter(None, (_line(file, "Model") for file in files)))


@cache
def multiplies_bf16() -> bool:
    flags = _line(_CPUINFO, "flags") or _line(_CPUINFO, "Features")
    return bool(_BF16_FLAGS & set(flags.split()))


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def _line(file: Path, name: str) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
