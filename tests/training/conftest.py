from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modeling import tiny_random


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny-random base."""
    path = tmp_path_factory.mktemp("bases") / "tiny-random"
    tiny_random.write(path)
    return path
