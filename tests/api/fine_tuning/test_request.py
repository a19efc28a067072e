"""Numbers of any size in the bodies that create jobs: within their bounds, or refused in words that name them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from api.fine_tunes.request import CreateFineTune
from api.fine_tuning.request import (
    MAX_LEARNING_RATE_MULTIPLIER,
    DpoHyperparameters,
    Hyperparameters,
    ReinforcementHyperparameters,
)
from foundation.invalid_parameters import explain

NUMBERS = st.integers() | st.floats() | st.integers(0, 2000).map(lambda digits: 10**digits)
BOUNDS: list[tuple[type[BaseModel], str, float]] = [
    (Hyperparameters, "n_epochs", 50),
    (Hyperparameters, "batch_size", 256),
    (Hyperparameters, "learning_rate_multiplier", MAX_LEARNING_RATE_MULTIPLIER),
    (DpoHyperparameters, "beta", 2),
    (ReinforcementHyperparameters, "compute_multiplier", 10),
    (ReinforcementHyperparameters, "eval_interval", 2**31 - 1),
    (ReinforcementHyperparameters, "eval_samples", 2**31 - 1),
    (CreateFineTune, "n_epochs", 50),
    (CreateFineTune, "batch_size", 256),
    (CreateFineTune, "learning_rate_multiplier", MAX_LEARNING_RATE_MULTIPLIER),
]


@pytest.mark.parametrize(("model", "name", "maximum"), BOUNDS)
@given(value=NUMBERS)
@example(value=1e22)
@example(value=10**400)
@example(value=math.inf)
@example(value=math.nan)
def test_a_number_is_within_its_bounds_or_refused(
    model: type[BaseModel], name: str, maximum: float, value: float
) -> None:
    body: dict[str, Any] = {name: value}
    if model is CreateFineTune:
        body["training_file"] = "file-X"
    try:
        taken = getattr(model.model_validate(body), name)
    except ValidationError as error:
        refusal = explain(error.errors())
        assert refusal.param == name
        assert len(refusal.message) < 3000
        assert not 1 <= value <= maximum or value != int(value)
    else:
        assert taken == value
        assert 0 < taken <= maximum
