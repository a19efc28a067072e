"""What `python -m modeling.insight` is asked for, as a file of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modeling.base import Precision
from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError, InvalidMessages

from . import intruders
from .depth import STRENGTHS
from .samples import NUM_SAMPLES
from .tuned import TokenRow

MAX_TOKENS = 8192
"""Of a part's rows together."""
MAX_ROW_TOKENS = 2048


class InsightAsked(BaseModel):
    model_config = ConfigDict(extra="forbid")


NumTokens = Annotated[int, Field(ge=1)]


class AskedBase(InsightAsked):
    """As the catalogue has it."""

    id: str
    source: str
    revision: str


class AskedArtifact(InsightAsked):
    name: str
    """By which results call it."""
    folder: Path
    kind: str


class PartWithRows(InsightAsked):
    rows: Path
    """See `read_rows`."""
    max_tokens: NumTokens = MAX_TOKENS


class WeightsPart(InsightAsked):
    part: Literal["weights"]


class IntrudersPart(InsightAsked):
    part: Literal["intruders"]
    num_blocks: Annotated[int, Field(ge=1)] | None = intruders.NUM_BLOCKS


class SubspacesPart(InsightAsked):
    """Between the checkpoints, and the model itself as the last of them."""

    part: Literal["subspaces"]


class SamplesPart(InsightAsked):
    """KL(base‖tuned) on what the base itself says."""

    part: Literal["samples"]


class PromptsPart(PartWithRows):
    """The same on what the base says to given rows, as far as their first token that counts."""

    part: Literal["prompts"]
    num_tokens: Annotated[int, Field(ge=1, le=512)] = 64


class NeutralPart(InsightAsked):
    part: Literal["neutral"]


class TokensPart(PartWithRows):
    part: Literal["tokens"]


class LayersPart(PartWithRows):
    part: Literal["layers"]


class AblationPart(PartWithRows):
    part: Literal["ablation"]


class DialPart(PartWithRows):
    part: Literal["dial"]
    strengths: tuple[Annotated[float, Field(ge=0, le=1.5)], ...] = STRENGTHS
    num_samples: Annotated[int, Field(ge=0, le=NUM_SAMPLES)] = 16
    """0: without KL."""


Part = Annotated[
    WeightsPart
    | IntrudersPart
    | SubspacesPart
    | SamplesPart
    | PromptsPart
    | NeutralPart
    | TokensPart
    | LayersPart
    | AblationPart
    | DialPart,
    Field(discriminator="part"),
]


class InsightRequest(InsightAsked):
    base: AskedBase
    bases_dir: Path
    kept_dir: Path
    """What is the same for every model of a base is kept below it."""
    model: AskedArtifact
    checkpoints: list[AskedArtifact] = []
    """Of the same run, in their order."""
    parts: list[Part]
    seed: int = 0
    precision: Literal["auto"] | Precision = "auto"


def read_rows(path: Path, template: ChatTemplate, max_tokens: int = MAX_TOKENS) -> list[TokenRow]:
    """A file of JSON lines, each with a `name` and `ids` with `weights`, or what a training file's row has.

    As many from the beginning as have `max_tokens` together; none that the template refuses, or that nothing counts in.
    """
    rows: list[TokenRow] = []
    left = max_tokens
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            found = TokenRow(*_tokens(row, template), str(row["name"]))
        except (InvalidMessages, ChatTemplateError):
            continue
        if found.scored and len(found.ids) <= min(left, MAX_ROW_TOKENS):
            rows.append(found)
            left -= len(found.ids)
    return rows


def _tokens(row: dict[str, Any], template: ChatTemplate) -> tuple[list[int], list[float]]:
    if "ids" in row:
        return row["ids"], row["weights"]
    if "messages" in row:
        example = template.tokenize_chat(row["messages"], row.get("tools"))
    else:
        example = template.tokenize_completion(row["prompt"], row["completion"])
    return example.input_ids, example.weights
