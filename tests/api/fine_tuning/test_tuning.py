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
    expected = {
        "type": "lora",
        "rank": 16,
        "alpha": "auto",
        "targets": ["q_proj", "v_proj"],
        "rslora": "auto",
    }
    options = {"rank": 16, "targets": ["v_proj", "q_proj"], "alpha": None}
    assert asked(**options).options() == expected
    assert asked(**expected).options() == expected
    # Said or not makes a difference where a tuned model has it.
    assert asked(**options, rslora=False).options() == {**expected, "rslora": False}


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"type": "qlora"}, "tuning.type", "'lora', 'prefix', 'output_layers' or 'full'"),
        ({"rank": 0}, "tuning.rank", "an integer between 1 and 512"),
        ({"rank": 513}, "tuning.rank", "an integer between 1 and 512"),
        ({"rank": float("nan")}, "tuning.rank", "an integer between 1 and 512"),
        ({"alpha": 0}, "tuning.alpha", "a number between 0.01 and 4096"),
        ({"alpha": 1e-300}, "tuning.alpha", "but got 1e-300"),
        ({"alpha": float("inf")}, "tuning.alpha", "a number between 0.01 and 4096"),
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


def continuing(type: str, kind: str, spec: dict[str, Any], **options: Any) -> None:
    tuning = AskedTuning.model_validate({"type": type, **options})
    check_continues(tuning, "ft:m", kind, spec)


LORA = {"rank": 8, "alpha": 32.0, "target_modules": ["v_proj", "q_proj"]}


def test_a_tuned_model_is_gone_on_with_as_it_is_or_merged() -> None:
    for other in ({}, {"rank": 16}, {"rank": 4}, {"targets": ["q_proj"]}, {"rslora": True}):
        continuing("lora", "lora", LORA, **other)
    for kind in ("lora", "output_layers", "full"):
        for type in ("lora", "output_layers", "full"):
            continuing(type, kind, {})
    prefix = {"num_virtual_tokens": 4}
    continuing("prefix", "prefix", prefix)
    continuing("prefix", "prefix", prefix, length=4)


@pytest.mark.parametrize(
    ("type", "options", "kind", "spec", "param", "said"),
    [
        ("prefix", {}, "lora", LORA, "tuning.type", "Go on with the tuning full, lora, output_"),
        ("full", {}, "prefix", {}, "tuning.type", "is a prefix, which cannot be merged"),
        (
            "prefix",
            {"length": 8},
            "prefix",
            {"num_virtual_tokens": 4},
            "tuning.length",
            "of length 4",
        ),
        ("lora", {}, "classifier", {}, "tuning.type", "as what it is only. Leave out 'tuning'"),
        ("lora", {"rank": 100}, "lora", {**LORA, "rank": 500}, "tuning.rank", "has rank 500"),
        (
            "lora",
            {"targets": ["o_proj"]},
            "lora",
            {**LORA, "rank": 512},
            "tuning.targets",
            "more than 512",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_with_what_would_do(
    type: str, options: dict[str, Any], kind: str, spec: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        continuing(type, kind, spec, **options)
    assert refused.value.param == param
    assert said in refused.value.message
