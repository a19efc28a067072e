from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from examples import plot


def test_loss_curve_is_an_svg_with_both_curves(tmp_path: Path) -> None:
    metrics = [{"step": step, "train_loss": 1 / step} for step in range(1, 21)]
    metrics[9]["valid_loss"] = 0.5
    metrics[19]["full_valid_loss"] = 0.4
    path = tmp_path / "loss.svg"
    plot.loss_curve(metrics, path)
    assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    text = path.read_text()
    assert "training, average" in text
    assert "validation" in text


def test_loss_curve_without_validation_has_no_such_curve(tmp_path: Path) -> None:
    path = tmp_path / "loss.svg"
    plot.loss_curve([{"step": 1, "train_loss": 2.0, "valid_loss": None}], path)
    assert "validation" not in path.read_text()


def test_loss_curve_refuses_to_draw_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no metrics"):
        plot.loss_curve([], tmp_path / "loss.svg")


def test_smoothed_starts_at_the_first_loss_and_keeps_a_constant() -> None:
    assert plot.smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    first, second = plot.smoothed([2.0, 1.0])
    assert first == 2.0
    assert 1.0 < second < 2.0
