"""Where a job is trained: what may make its last bits differ from those of another machine."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def read() -> dict[str, str]:
    """By names that people read."""
    found = {f"version of {name}": _version(name) for name in PACKAGES}
    found |= {name: os.environ.get(name, "") for name in VARIABLES}
    return found | {
        "version of Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "GPU": _gpu(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def _processor() -> str:
    return _line(Path("/proc/cpuinfo"), "model name") or platform.processor()


@cache
def _gpu() -> str:
    """As NVIDIA's driver names them; empty where there is none."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return ", ".join(filter(None, (_line(file, "Model") for file in files)))


def _line(file: Path, name: str) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
