"""The knobs under `luthier` in a job's hyperparameters, resolved: what is not asked for stays as it is without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dataset.metrics import DEFAULT_METRIC, is_lower_better
from storage.reports.reports import Depth
from training.messages import EarlyStopping, TrainConfig

Json = Mapping[str, Any]

_PLAIN = (
    "lr_schedule",
    "weight_decay",
    "max_grad_norm",
    "dropout",
    "neftune_noise_alpha",
    "loraplus_ratio",
)
"""Fields of the config that are what was asked for."""


def max_seq_len(hyperparameters: Mapping[str, Any], base_max_seq_len: int) -> int:
    """Tokens of an example, or of a window."""
    asked = _asked(hyperparameters).get("max_seq_len")
    return base_max_seq_len if asked is None else min(int(asked), base_max_seq_len)


def fields(
    hyperparameters: Mapping[str, Any], *, steps: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Of the config for a run of that many steps, and why each is what it is."""
    asked = _asked(hyperparameters)
    warmup_steps, reason = _warmup(asked, steps)
    reasons = {"warmup_steps": reason} if asked else {}
    found: dict[str, Any] = {name: asked[name] for name in _PLAIN if name in asked}
    found["warmup_steps"] = warmup_steps
    found["shared"] = asked.get("shared", "auto")
    if "early_stopping" in asked:
        found["early_stopping"] = EarlyStopping.model_validate(
            {"metric": DEFAULT_METRIC, "patience": 1, **asked["early_stopping"]}
        )
    return found, reasons


def best_metric(hyperparameters: Mapping[str, Any]) -> str | None:
    """By which the best epoch's checkpoint is chosen as the model; None if the last one is the model."""
    asked = _asked(hyperparameters)
    if asked.get("keep") != "best":
        return None
    stopping = asked.get("early_stopping") or {}
    metric: str = asked.get("best_metric") or stopping.get("metric") or DEFAULT_METRIC
    return metric


def best(metrics: Iterable[Mapping[str, Any]], metric: str, last_step: int) -> Json | None:
    """The data of the best epoch's last step, up to `last_step`: the first of equals. None if nothing was measured."""
    measured = [m for m in metrics if m["step"] <= last_step and m.get(metric) is not None]
    sign = 1 if is_lower_better(metric) else -1
    return min(measured, key=lambda m: sign * float(m[metric]), default=None)


def shown(hyperparameters: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """What the job object shows under `luthier`, every knob with its value; empty if nothing was asked for.

    A share of the steps has become their number, so that another job may be asked for with just that.
    """
    asked = _asked(hyperparameters)
    if not asked:
        return {}
    stopping = config.early_stopping
    values = {
        **{name: getattr(config, name) for name in (*_PLAIN, "shared")},
        "warmup_steps": config.warmup_steps,
        "max_seq_len": config.max_seq_len,
        "early_stopping": stopping.model_dump() if stopping else None,
        "keep": asked.get("keep", "last"),
        "best_metric": best_metric(hyperparameters),
        "probes": asked.get("probes"),
        "report": asked.get("report"),
    }
    return {"luthier": {name: value for name, value in values.items() if value is not None}}


def probes(hyperparameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompts that the model is asked while it learns."""
    return list(_asked(hyperparameters).get("probes") or ())


def report(hyperparameters: Mapping[str, Any], depth: Depth) -> tuple[Depth, dict[str, Any]]:
    """How deep the job's report goes, `depth` where it does not say, and what else was asked of it."""
    asked = _asked(hyperparameters).get("report")
    if isinstance(asked, str):
        return _DEPTHS[asked], {}
    rest = dict(asked or {})
    return _DEPTHS[rest.pop("depth", depth)], rest


_DEPTHS: dict[str, Depth] = {"auto": "auto", "full": "full", "off": "off"}


def _asked(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    return dict(hyperparameters.get("luthier") or {})


def _warmup(asked: Mapping[str, Any], steps: int) -> tuple[int, str]:
    if asked.get("lr_schedule") == "constant":
        return 0, "the schedule constant has none"
    if "warmup_steps" in asked:
        return min(int(asked["warmup_steps"]), steps), "as asked, at most all steps"
    if "warmup_ratio" in asked:
        ratio = float(asked["warmup_ratio"])
        return math.ceil(ratio * steps), f"{ratio:g} of {steps} steps"
    return min(int(0.05 * steps), 20), f"a twentieth of {steps} steps, 20 at most"
