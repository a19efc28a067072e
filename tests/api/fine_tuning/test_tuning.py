"""What may be asked of `tuning`, and what is told when it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from api.fine_tuning.request import CreateFineTuningJob
from api.fine_tuning.tuning import AskedTuning, check_continues
from foundation.errors import InvalidRequest
from foundation.invalid_parameters import explain


def asked(**options: Any) -> AskedTuning:
    return AskedTuning.model_validate({"type": "lora", **options})


def test_options_are_those_of_the_type_with_what_was_left_out() -> None:
    assert asked(rank=16, targets=["v_proj", "q_proj"], alpha=None).options() == {
        "type": "lora",
        "rank": 16,
        "alpha": "auto",
        "targets": ["q_proj", "v_proj"],
        "rslora": False,
    }


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"type": "qlora"}, "tuning.type", "'lora', 'prefix', 'output_layers' or 'full'"),
        ({"rank": 0}, "tuning.rank", "an integer between 1 and 512"),
        ({"rank": 513}, "tuning.rank", "an integer between 1 and 512"),
        ({"rank": float("nan")}, "tuning.rank", "an integer between 1 and 512"),
        ({"alpha": 0}, "tuning.alpha", "a number above 0"),
        ({"alpha": float("inf")}, "tuning.alpha", "4096 at most"),
        ({"targets": []}, "tuning.targets", "some of q_proj"),
        ({"targets": ["lm_head"]}, "tuning.targets", "some of q_proj"),
        ({"targets": [[]]}, "tuning.targets", "some of q_proj"),
        ({"rslora": 3}, "tuning.rslora", "boolean"),
        ({"rslora": "yes"}, "tuning.rslora", "boolean"),
        ({"length": 8}, "tuning.length", "it has rank, alpha, targets, rslora"),
        ({"ranks": 8}, "tuning.ranks", "has no option 'ranks'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    options: dict[str, Any], param: str, said: str
) -> None:
    body = {"model": "m", "training_file": "file-1", "tuning": {"type": "lora", **options}}
    refusal = None
    try:
        tuning = CreateFineTuningJob.model_validate(body).tuning
        assert tuning is not None
        tuning.options()
    except ValidationError as error:
        refusal = explain(error.errors())
    except InvalidRequest as error:
        refusal = error
    assert refusal is not None
    assert refusal.param == param
    assert said in refusal.message


def test_a_tuned_model_is_gone_on_with_as_it_is() -> None:
    spec = {"rank": 8, "alpha": 32.0, "target_modules": ["v_proj", "q_proj"]}
    for same in ({}, {"rank": 8}, {"targets": ["q_proj", "v_proj"]}, {"rslora": False}):
        check_continues(asked(**same), "ft:m", "lora", spec)
    check_continues(asked(alpha=16), "ft:m", "lora", {"rank": 8})  # not known of old ones
    for other in ({"rank": 16}, {"targets": ["q_proj"]}, {"rslora": True}, {"alpha": 8}):
        with pytest.raises(InvalidRequest, match="which training goes on with") as refused:
            check_continues(asked(**other), "ft:m", "lora", spec)
        (name,) = other
        assert refused.value.param == f"tuning.{name}"
    with pytest.raises(InvalidRequest, match="gone on with as 'full' only, not as 'lora'"):
        check_continues(asked(), "ft:m", "full", {})
    full, layers = (
        AskedTuning.model_validate({"type": kind}) for kind in ("full", "output_layers")
    )
    check_continues(full, "ft:m", "lora", spec)  # merged into the base first
    with pytest.raises(InvalidRequest, match="as 'lora' or 'full' only, not as 'output_layers'"):
        check_continues(layers, "ft:m", "lora", spec)
