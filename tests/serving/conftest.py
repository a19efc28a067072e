from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from modeling import tiny_random
from modeling.tokenizer import Tokenizer
from tests.serving.server import Running, running_server

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One server for the whole file; what breaks a server starts its own."""
    async with running_server(tmp_path_factory.mktemp("serving")) as it:
        yield it
