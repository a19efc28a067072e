"""Measures of weights against the same of dense matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from modeling.artifacts import full, model_tensors, prefix
from modeling.insight import intruders, subspaces, weights
from modeling.insight.base_weights import BaseWeights
from modeling.insight.changes import NotMeasurable
from modeling.insight.factored import Factored
from tests.modeling.models import tiny_model

from .parts import adapter, dense, silent


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-5, abs=1e-9)


@pytest.fixture
def base(base_path: Path, tmp_path: Path) -> BaseWeights:
    return BaseWeights(base_path, tmp_path / "kept")


def by_name(found: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in found["weights"]}


def test_norms_spectra_and_ranks_are_those_of_the_dense_change(
    base: BaseWeights, base_path: Path
) -> None:
    artifact = adapter(base_path)
    found = by_name(weights.measure(artifact, base, 0, silent))
    assert found.keys() == dense(artifact).keys()
    for name, change in dense(artifact).items():
        weight, delta = base.weight(name).numpy(), change.numpy()
        values = scipy.linalg.svdvals(delta)[:4]
        shares = values / values.sum()
        each = found[name]
        assert each["relative_norm"] == near(np.linalg.norm(delta) / np.linalg.norm(weight))
        assert each["values"] == near(values.tolist())
        assert each["rank"] == 4
        assert each["stable_rank"] == near((values**2).sum() / values[0] ** 2)
        assert each["effective_rank"] == near(np.exp(-(shares @ np.log(shares))))
        u, _, vh = scipy.linalg.svd(delta)
        along = np.linalg.norm(u[:, :4].T @ weight @ vh[:4].T)
        assert each["amplification"] == near(np.linalg.norm(delta) / along)
        # Chance has no direction of its own, and numbers as large.
        assert each["null"]["amplification"] > 0
        assert each["null"]["stable_rank"] == pytest.approx(each["stable_rank"], rel=0.5)


def test_an_adapter_that_does_nothing_has_no_directions(base: BaseWeights, base_path: Path) -> None:
    for each in weights.measure(adapter(base_path, size=0), base, 0, silent)["weights"]:
        assert (each["relative_norm"], each["rank"], each["effective_rank"]) == (0, 0, 0)
        assert each["amplification"] is None


def test_chance_is_the_same_each_time(base: BaseWeights, base_path: Path) -> None:
    first, again = (weights.measure(adapter(base_path), base, 5, silent) for _ in range(2))
    assert first == again
    assert first != weights.measure(adapter(base_path), base, 6, silent)


def test_changed_weights_are_measured_whole(base: BaseWeights, base_path: Path) -> None:
    model = tiny_model(base_path)
    shapes = model_tensors.shapes_of(model.config)
    generator = torch.Generator().manual_seed(1)
    changed = {
        name: base.weight(name).float() + 0.1 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    artifact = full.artifact(model.config, changed)
    found = by_name(weights.measure(artifact, base, 0, silent))
    name = "model.layers.1.mlp.up_proj.weight"
    values = scipy.linalg.svdvals((artifact.tensors[name].double() - base.weight(name)).numpy())
    assert found[name]["values"] == near(values.tolist())
    assert found["model.norm.weight"]["left_out"] == "no matrix"
    assert found["model.norm.weight"]["relative_norm"] > 0


def test_a_prefix_changes_no_weights(base: BaseWeights) -> None:
    with pytest.raises(NotMeasurable, match="leaves the base's weights as they are"):
        weights.measure(prefix.artifact(torch.zeros(4, 2, 2, 2, 16)), base, 0, silent)


@pytest.mark.parametrize("size", [0.3, 2.0])
def test_intruders_are_those_of_dense_decompositions(
    base: BaseWeights, base_path: Path, size: float
) -> None:
    artifact = adapter(base_path, size=size)
    found = by_name(intruders.measure(artifact, base, 0, silent, None))
    for name, change in dense(artifact).items():
        weight = base.weight(name).numpy()
        old = scipy.linalg.svd(weight, full_matrices=False)[0]
        new = scipy.linalg.svd(weight + change.numpy(), full_matrices=False)[0][:, :10]
        cosines = np.abs(old.T @ new).max(axis=0)
        assert found[name]["cosines"] == pytest.approx(cosines.tolist(), abs=1e-5)
        assert found[name]["count"] == (cosines < 0.5).sum()


def test_a_planted_direction_is_found_and_a_small_change_is_screened(
    base: BaseWeights, base_path: Path
) -> None:
    weight = base.weight("model.layers.0.mlp.gate_proj.weight")
    old, values = base.singular("model.layers.0.mlp.gate_proj.weight")
    # Outside of what the base reaches: it has 128 rows and 64 columns.
    new = torch.linalg.qr(torch.cat([old, torch.randn(128, 1).double()], dim=1))[0][:, -1:]
    planted = Factored(new, 2 * values[:1], torch.eye(64, 1).double())
    cosines = intruders.of_leading(weight, planted, old)
    assert cosines[0] < 0.5
    assert len(cosines) == 10
    small = intruders.measure(adapter(base_path, size=1e-3), base, 0, silent, 1)
    assert {(each["block"], each["is_screened"]) for each in small["weights"]} == {
        (0, True),
        (1, False),
    }
    assert not any(each["count"] for each in small["weights"])


def test_singular_vectors_are_kept_and_read_again(
    base: BaseWeights, base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = intruders.measure(adapter(base_path), base, 0, silent, 1)
    monkeypatch.setattr(Factored, "of_matrix", lambda _: pytest.fail("computed twice"))
    assert intruders.measure(adapter(base_path), base, 0, silent, 1) == first


def test_overlap_is_the_mean_squared_cosine_of_the_angles_between() -> None:
    first, second = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(1))
    angles = scipy.linalg.subspace_angles(first.numpy(), second.numpy()[:, :3])
    assert subspaces.overlap(first, second[:, :3]) == pytest.approx(
        (np.cos(angles) ** 2).mean(), rel=1e-5
    )
    assert subspaces.overlap(first, first @ torch.randn(5, 5)) == pytest.approx(1)
    assert subspaces.overlap(first, torch.zeros(64, 5)) is None


def test_checkpoints_are_compared_two_by_two_beside_chance(base_path: Path) -> None:
    def mixed(seed: int) -> Any:
        early, late = adapter(base_path), adapter(base_path, seed=seed)
        tensors: dict[str, Tensor] = {
            name: tensor + 0.3 * late.tensors[name] for name, tensor in early.tensors.items()
        }
        return type(early)(early.kind, early.spec, tensors, early.base_model)

    named = [("step 1", adapter(base_path, seed=9)), ("step 2", mixed(1)), ("step 3", mixed(2))]
    pairs = subspaces.measure(named, 0, silent)["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("step 1", "step 2"),
        ("step 1", "step 3"),
        ("step 2", "step 3"),
    ]
    assert pairs[2]["mean"] > 0.7
    for pair in pairs:
        # 4 of 32 to 128 directions.
        assert 0.02 < pair["null"] < 0.15
    assert pairs[0]["mean"] < 0.15
    with pytest.raises(NotMeasurable, match="one checkpoint"):
        subspaces.measure(named[:1], 0, silent)
