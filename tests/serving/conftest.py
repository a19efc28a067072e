from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from serving.engine.slots.lora import Adapter
from tests.serving.parts import ALL_TARGETS, read_adapter, write_adapter
from tests.serving.server import Running, running_server

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def adapter_folders(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """PEFT's files of two adapters of different rank, targets and scaling."""
    parent = tmp_path_factory.mktemp("adapters")
    return [
        write_adapter(base_path, parent / "a", rank=4, targets=("q_proj", "v_proj"), seed=1),
        write_adapter(
            base_path, parent / "b", rank=7, targets=ALL_TARGETS, use_rslora=True, seed=2
        ),
    ]


@pytest.fixture(scope="session")
def adapters(base_path: Path, adapter_folders: list[Path]) -> list[Adapter]:
    return [
        read_adapter(base_path, folder, f"adapter-{name}")
        for folder, name in zip(adapter_folders, "ab", strict=True)
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One server for the whole file; what breaks a server starts its own."""
    async with running_server(tmp_path_factory.mktemp("serving")) as it:
        yield it
