"""`luthier` within hyperparameters: how training runs, beyond what OpenAI's API has words for.

An unknown name is refused here, unlike elsewhere: a misspelt knob would be one that nobody turned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.requests.fields import NoNul
from dataset.metrics import DEFAULT_METRIC, EPOCH_METRICS
from foundation.errors import InvalidRequest
from grading import grade, graders

from .numbers import number

MAX_STEPS = 1_000_000
MAX_PROBES = 20
MAX_PROBE_TOKENS = 512
MAX_PROBE_CHARS = 16_384
MAX_PROBE_MESSAGES = 64
MIN_SEQ_LEN = 16


class StrictFields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StopEarly(StrictFields):
    metric: Annotated[str, Field(max_length=64)] = DEFAULT_METRIC
    patience: Annotated[int, number(1, 50, is_whole=True)] = 1
    min_delta: Annotated[float, number(0, 1000)] = 0.0


class ProbeMessage(StrictFields):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_PROBE_CHARS), NoNul]


class Probe(StrictFields):
    """A prompt, as messages or as text, that the model is asked while it learns."""

    messages: (
        Annotated[list[ProbeMessage], Field(min_length=1, max_length=MAX_PROBE_MESSAGES)] | None
    ) = None
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROBE_CHARS), NoNul] | None = None
    max_tokens: Annotated[int, number(1, MAX_PROBE_TOKENS, is_whole=True)] = 64

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise PydanticCustomError("probe", "a probe has either 'messages' or a 'prompt'.")
        return self


class AskReport(StrictFields):
    """What the report on the job is to be like."""

    depth: Literal["auto", "full", "off"] = "auto"
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROBE_CHARS), NoNul] | None = None
    """The instruction that the base does best with, as far as its user knows."""
    grader: dict[str, Any] | None = None
    """By which answers are measured, in place of what their form suggests."""
    target: Annotated[float, number(0, 1)] | None = None
    """The share of answers that has to be right for the model to be of use."""


class Control(StrictFields):
    """What is left out is as without `luthier`."""

    lr_schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"] = (
        "linear"
    )
    warmup_steps: Annotated[int, number(0, MAX_STEPS, is_whole=True)] | None = None
    warmup_ratio: Annotated[float, number(0, 1)] | None = None
    weight_decay: Annotated[float, number(0, 1)] = 0.0
    max_grad_norm: Annotated[float, number(0, 1e6)] = 1.0
    max_seq_len: Annotated[int, number(MIN_SEQ_LEN, 2**31 - 1, is_whole=True)] | None = None
    dropout: Annotated[float, number(0, 0.9)] = 0.0
    neftune_noise_alpha: Annotated[float, number(0, 100)] = 0.0
    loraplus_ratio: Annotated[float, number(0, 100, is_above=True)] = 1.0
    shared: Literal["auto", "never"] = "auto"
    early_stopping: StopEarly | None = None
    keep: Literal["last", "best"] = "last"
    best_metric: Annotated[str, Field(max_length=64)] | None = None
    probes: Annotated[list[Probe], Field(max_length=MAX_PROBES)] | None = None
    report: Literal["auto", "full", "off"] | AskReport | None = None

    def asked(self) -> dict[str, Any]:
        """What stands in the job's row: as it was asked for."""
        asked = self.model_dump(exclude_unset=True, exclude_none=True)
        if self.probes:
            asked["probes"] = [probe.model_dump(exclude_none=True) for probe in self.probes]
        if isinstance(self.report, AskReport):
            asked["report"] = self.report.model_dump(exclude_unset=True, exclude_none=True)
        return asked


Refusal = Callable[[str, str], InvalidRequest]
"""(the knob, what is wrong) -> the error."""


def check(
    asked: dict[str, Any],
    *,
    method: str,
    tuning: str,
    param: str,
    has_validation_file: bool,
    base_max_seq_len: int | None,
    is_served: bool,
) -> None:
    """Raises InvalidRequest for what does not fit the rest of the job. `param` is where `luthier` stood."""

    def refused(knob: str, text: str) -> InvalidRequest:
        name = f"{param}.{knob}"
        return InvalidRequest(f"Invalid '{name}': {text}", param=name, code="invalid_value")

    _check_warmup(asked, refused)
    _check_grader(asked, param)
    _check_fit(asked, method, tuning, refused)
    _check_metrics(asked, method, has_validation_file, refused)
    length = asked.get("max_seq_len")
    if length is not None and base_max_seq_len is not None and length > base_max_seq_len:
        raise refused(
            "max_seq_len", f"the base takes {base_max_seq_len} tokens, but got {length} instead."
        )

    if asked.get("probes") and not is_served:
        text = "no inference server serves this base, so nobody could answer; leave the probes out."
        raise refused("probes", text)


def _check_grader(asked: dict[str, Any], param: str) -> None:
    """Raises InvalidRequest with what is wrong with a report's grader."""
    report = asked.get("report")
    if not isinstance(report, dict) or "grader" not in report:
        return
    try:
        grade.check(graders.parse(report["grader"]))
    except graders.InvalidGrader as error:
        where = ".".join(map(str, error.details.get("loc", ("grader",))))
        name = f"{param}.report.{where}"
        raise InvalidRequest(
            f"Invalid '{name}': {error}", param=name, code="invalid_value"
        ) from None


def _check_warmup(asked: dict[str, Any], refused: Refusal) -> None:
    knobs = [knob for knob in ("warmup_steps", "warmup_ratio") if knob in asked]
    if len(knobs) == 2:
        raise refused("warmup_ratio", "give warmup_steps or warmup_ratio, not both.")
    if any(asked[knob] for knob in knobs) and asked.get("lr_schedule") == "constant":
        text = "the schedule 'constant' has no warm-up; use 'constant_with_warmup'."
        raise refused(knobs[0], text)


def _check_fit(asked: dict[str, Any], method: str, tuning: str, refused: Refusal) -> None:
    if asked.get("dropout"):
        if method == "dpo":
            text = "the method 'dpo' compares two models, which dropout would tell apart; use 0."
            raise refused("dropout", text)
        if tuning != "lora":
            raise refused("dropout", f"only LoRA has dropout, the tuning '{tuning}' none; use 0.")
    if asked.get("loraplus_ratio", 1) != 1 and tuning != "lora":
        raise refused("loraplus_ratio", f"the tuning '{tuning}' has no LoRA matrices; use 1.")
    if asked.get("neftune_noise_alpha"):
        if method == "dpo":
            text = "the method 'dpo' compares two models, which noise would tell apart; use 0."
            raise refused("neftune_noise_alpha", text)
        if tuning == "output_layers":
            text = "what is below the output layers is computed once, without noise; use 0."
            raise refused("neftune_noise_alpha", text)


def _check_metrics(
    asked: dict[str, Any], method: str, has_validation_file: bool, refused: Refusal
) -> None:
    if "best_metric" in asked and asked.get("keep") != "best":
        raise refused("best_metric", "it says which checkpoint is the best one; add keep: 'best'.")
    wanted = {}
    if "early_stopping" in asked:
        stopping = asked["early_stopping"]
        wanted["early_stopping"] = stopping.get("metric", DEFAULT_METRIC)
    if asked.get("keep") == "best":
        wanted["best_metric" if "best_metric" in asked else "keep"] = asked.get("best_metric")
    for knob, metric in wanted.items():
        if not has_validation_file:
            text = "it goes by a validation file, and the job has none; add validation_file."
            raise refused(knob, text)
        if metric is not None and metric not in EPOCH_METRICS[method]:
            raise refused(
                f"{knob}.metric" if knob == "early_stopping" else knob,
                f"at the end of an epoch the method '{method}' measures "
                f"{', '.join(EPOCH_METRICS[method])}, but got {metric!r} instead.",
            )
