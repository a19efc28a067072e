"""What a job changes of its base: the field `tuning` of create-job's body, which OpenAI's API does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from foundation.errors import InvalidRequest
from storage.models.artifacts import (
    LORA_TARGETS,
    MAX_ADAPTER_RANK,
    MERGEABLE_KINDS,
    MIN_PREFIX_TOKENS,
)

from .numbers import auto_or, auto_or_whole, is_number

MIN_ALPHA, MAX_ALPHA = 0.01, 4096.0
"""An adapter that grows has its weights scaled by the ratio of two alphas, and they stay numbers of 32 bits."""
MAX_PREFIX_TOKENS = 512
MAX_BLOCKS = 1024
"""What bounds it is how many the base has (`fit.py`)."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "lora": ("rank", "alpha", "targets", "rslora"),
    "prefix": ("length",),
    "output_layers": ("blocks", "head"),
    "full": (),
}


def _targets(value: object) -> object:
    if value is None or value == "auto":
        return "auto"
    is_list = isinstance(value, list) and 0 < len(value) <= len(LORA_TARGETS)
    if is_list and all(name in LORA_TARGETS for name in value):  # type: ignore[attr-defined]
        # In one order, whichever they were given in: it is part of what makes a run repeatable.
        return [name for name in LORA_TARGETS if name in value]  # type: ignore[operator]
    raise PydanticCustomError(
        "targets",
        "expected 'auto' or an array of some of {known}, but got {got} instead.",
        {"known": ", ".join(LORA_TARGETS), "got": repr(value)[:50]},
    )


_AUTO_OR_FLAG = auto_or("a boolean", lambda value: isinstance(value, bool))
"""What a tuned model has that the job goes on from; else false."""


class AskedTuning(BaseModel):
    """Each type has options of its own; what another's would mean, nobody knows."""

    model_config = ConfigDict(extra="allow")
    type: Literal["lora", "prefix", "output_layers", "full"]
    rank: Annotated[Literal["auto"] | int, auto_or_whole(MAX_ADAPTER_RANK)] = "auto"
    alpha: Annotated[
        Literal["auto"] | float,
        auto_or(
            f"a number between {MIN_ALPHA:g} and {MAX_ALPHA:g}",
            lambda value: is_number(value) and MIN_ALPHA <= value <= MAX_ALPHA,
        ),
    ] = "auto"
    targets: Annotated[Literal["auto"] | list[str], BeforeValidator(_targets)] = "auto"
    """The last names of the layers that get an adapter."""
    rslora: Annotated[Literal["auto"] | bool, _AUTO_OR_FLAG] = "auto"
    """An adapter counts by alpha / sqrt(rank), not by alpha / rank."""
    length: Annotated[
        Literal["auto"] | int, auto_or_whole(MAX_PREFIX_TOKENS, minimum=MIN_PREFIX_TOKENS)
    ] = "auto"
    """Virtual tokens."""
    blocks: Annotated[Literal["auto"] | int, auto_or_whole(MAX_BLOCKS)] = "auto"
    """So many of the last ones, and the norm behind them."""
    head: Annotated[Literal["auto"] | bool, _AUTO_OR_FLAG] = "auto"
    """The output layer too; where it is the embedding, a copy of that."""

    def options(self) -> dict[str, Any]:
        """The type with its options. Raises InvalidRequest for those of no type or of another."""
        own = OPTIONS[self.type]
        for name in sorted(self.model_fields_set | (self.model_extra or {}).keys()):
            if name != "type" and name not in own:
                has = f"has {', '.join(own)}" if own else "has none"
                raise InvalidRequest(
                    f"The tuning '{self.type}' has no option '{name[:50]}'; it {has}.",
                    param=f"tuning.{name[:50]}",
                    code="unknown_parameter",
                )
        return self.model_dump(include={"type", *own})


def check_continues(tuning: AskedTuning, model: str, kind: str, spec: Mapping[str, Any]) -> None:
    """Raises InvalidRequest unless the tuned model can be gone on with as asked: as what it is, or merged into the base
    first."""
    if "prefix" in (kind, tuning.type):
        _check_prefix(tuning, model, kind, spec)
    elif kind not in MERGEABLE_KINDS:
        raise InvalidRequest(
            f"Model {model} is of the kind '{kind}' and can be gone on with as what it is only. Leave out 'tuning', or "
            "begin with the base.",
            param="tuning.type",
            code="invalid_value",
        )
    elif kind == tuning.type == "lora":
        _check_rank(tuning, model, spec)


def _check_prefix(tuning: AskedTuning, model: str, kind: str, spec: Mapping[str, Any]) -> None:
    """It stands before texts, not in weights: nothing can be merged with it."""
    if tuning.type != kind:
        why = (
            f"Model {model} is a prefix, which cannot be merged into the base's weights: training goes on with it as a "
            "prefix. Leave out 'tuning'"
            if kind == "prefix"
            else f"Model {model} is of the kind '{kind}', and no model is that with a prefix before it. Go on with the "
            f"tuning {', '.join(sorted(MERGEABLE_KINDS))}"
        )
        raise InvalidRequest(
            f"{why}, or begin with the base.", param="tuning.type", code="invalid_value"
        )
    has = spec.get("num_virtual_tokens")
    if has is not None and tuning.length not in ("auto", has):
        raise InvalidRequest(
            f"Model {model} is a prefix of length {has}, which training goes on with; it cannot become one of "
            f"{tuning.length}. Leave out 'tuning.length', or begin with the base.",
            param="tuning.length",
            code="invalid_value",
        )


def _check_rank(tuning: AskedTuning, model: str, spec: Mapping[str, Any]) -> None:
    """An adapter that has no room for the model's is trained on top of it, and both are published as one."""
    # Of models that early versions made not everything is known here; the worker reads their files.
    has, targets = spec.get("rank"), set(spec.get("target_modules", ()))
    if has is None:
        return
    asked = has if tuning.rank == "auto" else tuning.rank
    is_room = tuning.targets == "auto" or targets <= set(tuning.targets)
    added = 1 if tuning.rank == "auto" else tuning.rank
    if (asked < has or not is_room) and has + added > MAX_ADAPTER_RANK:
        raise InvalidRequest(
            f"Model {model} has rank {has}. An adapter of rank {added} on top of it makes more than {MAX_ADAPTER_RANK}, "
            "which is the most that one may have. Leave out 'tuning' to train the adapter that is there, or use the "
            "tuning 'full'.",
            param="tuning.targets" if asked >= has else "tuning.rank",
            code="invalid_value",
        )
