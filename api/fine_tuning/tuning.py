"""What a job changes of its base: the field `tuning` of create-job's body, which OpenAI's API does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from foundation.errors import InvalidRequest
from storage.models.artifacts import LORA_TARGETS, MIN_PREFIX_TOKENS

from .numbers import auto_or_above, auto_or_whole

MAX_RANK = 512
"""As much as an adapter that is read may have (modeling/artifacts/lora.py)."""
MAX_ALPHA = 4096.0
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


class AskedTuning(BaseModel):
    """Each type has options of its own; what another's would mean, nobody knows."""

    model_config = ConfigDict(extra="allow")
    type: Literal["lora", "prefix", "output_layers", "full"]
    rank: Annotated[Literal["auto"] | int, auto_or_whole(MAX_RANK)] = "auto"
    alpha: Annotated[Literal["auto"] | float, auto_or_above(0, MAX_ALPHA)] = "auto"
    targets: Annotated[Literal["auto"] | list[str], BeforeValidator(_targets)] = "auto"
    """The last names of the layers that get an adapter."""
    rslora: Annotated[bool, Field(strict=True)] = False
    """An adapter counts by alpha / sqrt(rank), not by alpha / rank."""
    length: Annotated[
        Literal["auto"] | int, auto_or_whole(MAX_PREFIX_TOKENS, minimum=MIN_PREFIX_TOKENS)
    ] = "auto"
    """Virtual tokens."""
    blocks: Annotated[Literal["auto"] | int, auto_or_whole(MAX_BLOCKS)] = "auto"
    """So many of the last ones, and the norm behind them."""
    head: Annotated[bool, Field(strict=True)] = False
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


MERGED = {"lora": ("full",)}
"""What a tuned model of a kind can become by merging it into its base first, beside what it is."""
_SPEC_NAMES = {
    "rank": "rank",
    "alpha": "alpha",
    "targets": "target_modules",
    "rslora": "use_rslora",
    "length": "num_virtual_tokens",
    "blocks": "num_blocks",
    "head": "train_head",
}


def check_continues(tuning: AskedTuning, model: str, kind: str, spec: Mapping[str, Any]) -> None:
    """Raises InvalidRequest unless the tuned model can be gone on with as asked: it stays of its kind and size, or is
    merged into the base."""
    if tuning.type in MERGED.get(kind, ()):
        return
    if tuning.type != kind:
        others = "".join(f" or '{other}'" for other in MERGED.get(kind, ()))
        raise InvalidRequest(
            f"Model {model} is of the kind '{kind}' and can be gone on with as '{kind}'{others} only, not as "
            f"'{tuning.type}'. Leave out 'tuning', or begin with the base.",
            param="tuning.type",
            code="invalid_value",
        )
    for name in OPTIONS[kind]:
        asked = getattr(tuning, name)
        # Of models that early versions made not everything is known here.
        has = spec.get(_SPEC_NAMES[name], False if isinstance(asked, bool) else None)
        if name not in tuning.model_fields_set or asked == "auto" or has is None:
            continue
        same = set(asked) == set(has) if isinstance(asked, list) else asked == has
        if not same:
            raise InvalidRequest(
                f"Model {model} has {name}={has}, which training goes on with; it cannot become "
                f"{asked}. Leave out 'tuning.{name}', or begin with the base.",
                param=f"tuning.{name}",
                code="invalid_value",
            )
