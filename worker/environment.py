"""Where a job is trained: what may make its last bits differ from those of another machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from foundation import machine

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def read() -> dict[str, str]:
    """By names that people read."""
    found = {f"version of {name}": _version(name) for name in PACKAGES}
    found |= {name: os.environ.get(name, "") for name in VARIABLES}
    return found | {
        "version of Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": machine.processor(),
        "cores": str(machine.num_cores()),
        "GPU": machine.gpu(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
