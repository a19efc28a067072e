from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from modeling.base import Precision
from training import resident
from training.primitives import load_base
from training.resident import ResidentBases


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the bases that were loaded, in order."""
    names: list[str] = []

    def remember(path: Path, precision: Precision) -> PreTrainedModel:
        names.append(path.name)
        return load_base(path, precision)

    monkeypatch.setattr(resident, "load_base", remember)
    return names


@pytest.fixture
def paths(base_path: Path, tmp_path: Path) -> list[Path]:
    """The same base under three names."""
    return [Path(shutil.copytree(base_path, tmp_path / name)) for name in "abc"]


def budget_bytes(path: Path, num_bases: float) -> int:
    return int(num_bases * sum(file.stat().st_size for file in path.glob("*.safetensors")))


def test_the_least_recently_used_base_goes(paths: list[Path], loaded: list[str]) -> None:
    bases = ResidentBases(budget_bytes(paths[0], 2.5))
    for index in (0, 1, 0, 2, 0, 1):
        with bases.lent(paths[index], "fp32"):
            pass
    assert loaded == ["a", "b", "c", "b"]


def test_a_base_in_use_stays_and_is_shared(paths: list[Path], loaded: list[str]) -> None:
    bases = ResidentBases(budget_bytes(paths[0], 1.5))
    with bases.lent(paths[0], "fp32") as first:
        with bases.lent(paths[1], "fp32"):
            pass
        with bases.lent(paths[0], "fp32") as again:
            assert again is first
    assert loaded == ["a", "b"]


def test_without_a_budget_the_last_base_stays(paths: list[Path], loaded: list[str]) -> None:
    bases = ResidentBases(0)
    for index in (0, 0, 1, 1, 0):
        with bases.lent(paths[index], "fp32"):
            pass
    assert loaded == ["a", "b", "a"]
