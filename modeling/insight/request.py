"""What `python -m modeling.insight` is asked for, as a file of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from modeling.base import Precision

from . import intruders
from .depth import STRENGTHS
from .samples import NUM_SAMPLES
from .tuned import TokenRow


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Base(Asked):
    """As the catalogue has it."""

    id: str
    source: str
    revision: str


class ArtifactFolder(Asked):
    name: str
    """By which results call it."""
    folder: Path
    kind: str


class Weights(Asked):
    part: Literal["weights"]


class Intruders(Asked):
    part: Literal["intruders"]
    num_blocks: Annotated[int, Field(ge=1)] | None = intruders.NUM_BLOCKS


class Subspaces(Asked):
    """Between the checkpoints, and the model itself as the last of them."""

    part: Literal["subspaces"]


class Samples(Asked):
    """KL(base‖tuned) on what the base itself says."""

    part: Literal["samples"]


class Prompts(Asked):
    """The same on what the base says to given rows, as far as their first token that counts."""

    part: Literal["prompts"]
    rows: Path
    num_tokens: Annotated[int, Field(ge=1, le=512)] = 64


class Neutral(Asked):
    part: Literal["neutral"]


class Tokens(Asked):
    part: Literal["tokens"]
    rows: Path


class Layers(Asked):
    part: Literal["layers"]
    rows: Path


class Ablation(Asked):
    part: Literal["ablation"]
    rows: Path


class Dial(Asked):
    part: Literal["dial"]
    rows: Path
    strengths: tuple[Annotated[float, Field(ge=0, le=1.5)], ...] = STRENGTHS
    num_samples: Annotated[int, Field(ge=0, le=NUM_SAMPLES)] = 16
    """0: without KL."""


Part = Annotated[
    Weights
    | Intruders
    | Subspaces
    | Samples
    | Prompts
    | Neutral
    | Tokens
    | Layers
    | Ablation
    | Dial,
    Field(discriminator="part"),
]


class Request(Asked):
    base: Base
    bases_dir: Path
    kept_dir: Path
    """What is the same for every model of a base is kept below it."""
    model: ArtifactFolder
    checkpoints: list[ArtifactFolder] = []
    """Of the same run, in their order."""
    parts: list[Part]
    seed: int = 0
    precision: Literal["auto"] | Precision = "auto"


def read_rows(path: Path) -> list[TokenRow]:
    """A file of JSON lines: `{"name": …, "ids": […], "weights": […]}`. Raises ValueError."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if len(row["ids"]) != len(row["weights"]) or len(row["ids"]) < 2:
            raise ValueError(f"row {row.get('name')!r} has not a weight for each of its tokens")
        rows.append(TokenRow(row["ids"], row["weights"], str(row["name"])))
    return rows
