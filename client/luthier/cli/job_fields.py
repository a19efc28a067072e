"""What the options of `luthier jobs create` come to: fields of the request.

Which options belong together is known here: the server would ignore one of another method.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import StrEnum
from typing import Any

from .errors import CommandError

Options = Mapping[str, Any]


class MethodName(StrEnum):
    SUPERVISED = "supervised"
    UNSUPERVISED = "unsupervised"
    CLASSIFICATION = "classification"
    DPO = "dpo"


class TuningName(StrEnum):
    LORA = "lora"
    PREFIX = "prefix"
    OUTPUT_LAYERS = "output_layers"
    FULL = "full"


OF_METHOD = {
    MethodName.SUPERVISED: (),
    MethodName.UNSUPERVISED: ("overlap",),
    MethodName.CLASSIFICATION: ("head", "class_weights", "positive_class", "n_classes", "betas"),
    MethodName.DPO: ("beta", "loss_type", "label_smoothing", "gamma", "sft_weight"),
}
OF_TUNING = {
    TuningName.LORA: {"rank": "rank", "alpha": "alpha", "targets": "targets", "rslora": "rslora"},
    TuningName.PREFIX: {"prefix_length": "length"},
    TuningName.OUTPUT_LAYERS: {"blocks": "blocks", "train_head": "head"},
    TuningName.FULL: {},
}
"""The options of each, with the server's names for them."""


def fields(of_method: dict[str, Any], of_tuning: dict[str, Any], of_control: Options) -> Options:
    """Raises CommandError for options that say nothing beside the others."""
    method = of_method.pop("method")
    for other, names in OF_METHOD.items():
        _check(of_method, set(names) - set(OF_METHOD[method]), f"--method {other}")
    hyperparameters = {**of_method, **_parsed(of_method)}
    if control := _control(of_control, method):
        hyperparameters["luthier"] = control
    request: dict[str, Any] = {
        "method": {"type": str(method), str(method): {"hyperparameters": hyperparameters}}
    }
    if of_tuning:
        request["tuning"] = _tuning(of_tuning)
    return request


def _tuning(asked: dict[str, Any]) -> Options:
    tuning = asked.pop("tuning", TuningName.LORA)
    for other, names in OF_TUNING.items():
        if other != tuning:
            _check(asked, names.keys(), f"--tuning {other}")
    if isinstance(targets := asked.get("targets"), str):
        asked["targets"] = _split(targets)
    return {"type": str(tuning), **{OF_TUNING[tuning][name]: v for name, v in asked.items()}}


def _control(asked: Options, method: MethodName) -> Options:
    control = dict(asked)
    stopping = {"patience": "patience", "min_delta": "min_delta", "stop_metric": "metric"}
    if "patience" in asked:
        control["early_stopping"] = {
            theirs: asked[ours] for ours, theirs in stopping.items() if ours in asked
        }
    else:
        _check(asked, stopping.keys(), "--patience")
    for name in stopping:
        control.pop(name, None)
    if questions := control.pop("probe", None):
        # What was trained on raw text knows no turns.
        is_text = method is MethodName.UNSUPERVISED
        control["probes"] = [
            {"prompt": text} if is_text else {"messages": [{"role": "user", "content": text}]}
            for text in questions
        ]
    return control


def _parsed(of_method: Options) -> Options:
    """Those that are written in another form than they are sent."""
    parsed: dict[str, Any] = {}
    weights = of_method.get("class_weights")
    if weights is not None and weights != "balanced":
        pairs = [pair.rpartition("=") for pair in _split(weights)]
        parsed["class_weights"] = {
            label: _number(text, "--class-weights") for label, _, text in pairs
        }
    if (betas := of_method.get("betas")) is not None:
        parsed["betas"] = [_number(text, "--betas") for text in _split(betas)]
    return parsed


def _check(given: Options, names: Container[str], wanted: str) -> None:
    for name in given:
        if name in names:
            raise CommandError(f"--{name.replace('_', '-')} goes with {wanted} only")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CommandError(f"{option} has {text!r} where a number is expected") from None
