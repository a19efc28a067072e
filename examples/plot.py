"""Draw a job's loss curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Metrics = Mapping[str, Any]
"""The data of a metrics event: `step`, `train_loss`, and now and then `valid_loss`."""

SMOOTHING = 0.8
"""Weight of the past in the drawn average of the training loss."""


def loss_curve(metrics: Sequence[Metrics], path: Path) -> None:
    """Write the training and validation loss by step as an SVG.

    Raises:
        ValueError: there is nothing to draw.
    """
    trained = [m for m in metrics if m["train_loss"] is not None]  # None stands for NaN
    if not trained:
        raise ValueError("no metrics to draw")
    # Imported late: matplotlib takes a second to import and comes with the extra "demo".
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [m["step"] for m in trained]
    losses = [m["train_loss"] for m in trained]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, label="training, each step")
    axes.plot(steps, smoothed(losses), color="tab:blue", label="training, average")
    # The whole validation file where it was run, the small batch of a step elsewhere.
    valid = [(m["step"], m.get("full_valid_loss") or m.get("valid_loss")) for m in metrics]
    valid = [(step, loss) for step, loss in valid if loss is not None]
    if valid:
        axes.plot(*zip(*valid, strict=True), "o-", color="tab:orange", label="validation")
    axes.set(xlabel="step", ylabel="loss (nats per answer token)", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="svg", bbox_inches="tight")
    pyplot.close(figure)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential average without the pull of a made-up start: each point averages what came so far."""
    averages, total, weight = [], 0.0, 0.0
    for loss in losses:
        total = SMOOTHING * total + loss
        weight = SMOOTHING * weight + 1
        averages.append(total / weight)
    return averages
