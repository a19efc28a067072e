from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from modeling import tiny_random
from modeling.tokenizer import Tokenizer

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tiny-random."""
    path = tmp_path_factory.mktemp("bases") / "tiny-random"
    tiny_random.write(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(base_path: Path) -> Tokenizer:
    return Tokenizer.load(base_path)
