"""A job with every "auto" resolved: pure functions from what is known to a TrainConfig, with the reasons.

The epochs are OpenAI's rule as its cookbook gives it; batch size and learning rate follow OpenAI's
0.2 % and the formula of tinker-cookbook's `hyperparam_utils.get_lr`, which was fitted to sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from dataset.validation import Role
from storage.models.architecture import Architecture
from training.messages import Method, Trainable, TrainConfig, Unsupervised

from . import control, trainables
from .defaults import (
    DEFAULTS,
    LARGE,
    OF_LORA,
    OF_TRAINABLES,
    SIMPO_BETA,
    SIMPO_MARGIN,
    Asked,
    TrainableDefaults,
)

MAX_TEXTS = 256
"""In a batch that goes by its tokens: as many as may be asked for."""
OF_ANY_METHOD = frozenset({"n_epochs", "batch_size", "learning_rate_multiplier", "luthier"})
"""Hyperparameters; any other is a field of the method that it belongs to, whose default is "auto"."""
_FEW_STEPS = 50
_REFERENCE_BATCH_SIZE = 16
_HIDDEN_SIZE_EXPONENT = {"llama": 0.781, "qwen": 0.0775}


@dataclass(frozen=True)
class Resolved:
    """The values, and for each one that was "auto" why it is what it is."""

    config: TrainConfig
    reasons: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(mode="json"), "reasons": self.reasons}


def from_json(stored: Mapping[str, Any], *, base_path: str) -> TrainConfig:
    """What `Resolved.to_json` gave, on this machine: bases may lie elsewhere than where it was made."""
    return TrainConfig.model_validate({**stored["config"], "base_path": base_path})


def n_epochs(num_examples: int) -> int:
    """OpenAI's cookbook: 3, more for few examples and fewer for very many."""
    if num_examples * 3 < 100:
        return max(1, min(25, 100 // num_examples))
    if num_examples * 3 > 25_000:
        return max(1, 25_000 // num_examples)
    return 3


def batch_size(num_examples: int, epochs: int, defaults: TrainableDefaults = OF_LORA) -> int:
    """About 0.2 % of the examples as a power of two, and not so many that few steps are left."""
    wanted = max(num_examples * 0.002, defaults.min_batch_size)
    return _no_larger(min(wanted, defaults.max_batch_size), num_examples, epochs)


def batch_size_within(bounds: tuple[int, int], num_examples: int, epochs: int) -> int:
    """As large as leaves many steps, but not below the bounds for that."""
    lowest, highest = bounds
    return max(_no_larger(highest, num_examples, epochs), lowest)


def batch_size_by_tokens(full_size: float, num_examples: int, epochs: int) -> int:
    """As a power of two, and not so many that few steps are left."""
    return _no_larger(min(full_size, MAX_TEXTS), num_examples, epochs)


def _no_larger(wanted: float, num_examples: int, epochs: int) -> int:
    size = 1 << round(math.log2(wanted)) if wanted > 1 else 1
    while size > 1 and total_steps(num_examples, size, epochs) < _FEW_STEPS:
        size //= 2
    return size


def total_steps(num_examples: int, size: int, epochs: int) -> int:
    return math.ceil(num_examples / size) * epochs


def learning_rate(
    architecture: Architecture,
    size: int,
    steps: int,
    reference_size: float = _REFERENCE_BATCH_SIZE,
) -> float:
    """The peak of supervised fine-tuning for a multiplier of 1."""
    exponent = _HIDDEN_SIZE_EXPONENT.get(architecture.family, 0.4)
    rate = 5e-5 * 10 * math.pow(2000 / architecture.hidden_size, exponent)
    for_few_steps = 1.5 if steps < 100 else 1.0
    for_batch_size = min(max(math.sqrt(size / reference_size), 0.5), 2.0)
    return rate * for_few_steps * for_batch_size


def method_of(kind: str, hyperparameters: Mapping[str, Any]) -> Method:
    own = {
        name: value
        for name, value in hyperparameters.items()
        if name not in OF_ANY_METHOD and value not in (None, "auto")
    }
    if own.get("loss_type") == "simpo":
        own = {"beta": SIMPO_BETA, **own}
        own = {"gamma": SIMPO_MARGIN * own["beta"], **own}
    adapter: TypeAdapter[Method] = TypeAdapter(Method)
    return adapter.validate_python({"kind": kind, **own})


def overlap_of(method: Method, role: Role, max_seq_len: int) -> int | None:
    """Of the windows that long rows of a file become; None if they lose their end instead.

    Where a loss is measured, half a window is context: what is guessed shall be guessed from enough.
    """
    if not isinstance(method, Unsupervised):
        return None
    half = max_seq_len // 2
    return half if role == "validation" else min(method.overlap, half)


def resolve(
    *,
    method: str,
    hyperparameters: Mapping[str, Any],
    tuning: Mapping[str, Any] | None,
    num_examples: int,
    num_tokens: int,
    num_supervised_tokens: int,
    architecture: Architecture,
    base_model: str,
    base_path: str,
    max_seq_len: int,
    seed: int,
    init_artifact: Trainable | None,
) -> Resolved:
    """`init_artifact` is what of the base the tuned model changes that the job goes on from.

    Raises JobFailed for a tuning that the base is too small for."""
    reasons: dict[str, str] = {}
    defaults = DEFAULTS[method]
    trainable = init_artifact and trainables.gone_on_with(tuning, init_artifact)
    if trainable is None:
        trainable = trainables.chosen(
            tuning or trainables.UNASKED, architecture, num_supervised_tokens, defaults, reasons
        )
        trainable = trainables.on_top_of(init_artifact, trainable, reasons)
    else:
        reasons["tuning"] = "that of the model it goes on from"
    of_kind = OF_TRAINABLES[trainable.kind]
    given = Asked(hyperparameters, reasons).given
    by_examples = f"{num_examples} examples"
    if defaults.epochs:
        epochs = int(given("n_epochs", defaults.epochs, f"the default of the method {method}"))
    else:
        fitting = min(max(n_epochs(num_examples), of_kind.min_epochs), of_kind.max_epochs)
        epochs = int(given("n_epochs", fitting, by_examples))
    reference_size: float = _REFERENCE_BATCH_SIZE
    if defaults.batch_tokens:
        reference_size = defaults.batch_tokens * num_examples / num_tokens
        automatic = batch_size_by_tokens(reference_size, num_examples, epochs)
        size = given("batch_size", automatic, f"{by_examples} of {num_tokens} tokens")
    elif defaults.batch_bounds:
        automatic = batch_size_within(defaults.batch_bounds, num_examples, epochs)
        size = given("batch_size", automatic, by_examples)
    else:
        size = given("batch_size", batch_size(num_examples, epochs, of_kind), by_examples)
    size = int(min(size, num_examples))
    multiplier = float(given("learning_rate_multiplier", 1.0, "the default"))
    steps = total_steps(num_examples, size, epochs)
    reasons["learning_rate"] = (
        f"method {method}, {trainable.kind}, multiplier {multiplier:g}, width "
        f"{architecture.hidden_size}, family {architecture.family}, batch size {size}, {steps} steps"
    )
    is_large = architecture.num_parameters > LARGE
    factor = (is_large and defaults.large_learning_rate_factor) or defaults.learning_rate_factor
    automatic_rate = (
        learning_rate(architecture, size, steps, reference_size)
        * factor
        * of_kind.learning_rate_factor
    )
    controlled, why = control.fields(hyperparameters, steps=steps)
    reasons |= why
    config = TrainConfig(
        method=method_of(method, hyperparameters),
        trainable=trainable,
        base_model=base_model,
        base_path=base_path,
        n_epochs=epochs,
        batch_size=size,
        learning_rate_multiplier=multiplier,
        learning_rate=min(automatic_rate, of_kind.max_learning_rate) * multiplier,
        seed=seed,
        max_seq_len=max_seq_len,
        **controlled,
    )
    return Resolved(config, reasons)
