"""`python -m modeling.insight REQUEST`: what fine-tuning did, part by part, in a process that ends with whoever started it.

REQUEST is a file of JSON (`request.InsightRequest`). On stdout comes a line of JSON each time there is news: `{"part": P, "progress": 0.25}`, then
`{"part": P, "done": …}` or `{"part": P, "skipped": reason}`, and last `{"end": true}`; or `{"failed": message}` for what is to be told to
the model's owner. Who keeps the parts that are done asks for the others only when it asks again.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from foundation import leash
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.kinds import format_of
from modeling.importer import ImportFailed, ensure_imported
from text.chat_template import ChatTemplate

from . import depth, forgetting, intruders, request, shifts, subspaces, weights
from .base_weights import BaseWeights
from .changes import NotMeasurable
from .forgetting import Reference
from .request import AskedArtifact, InsightRequest, Part, read_rows
from .tuned import TokenRow, TunedModel
from .weights import Json, OnProgress

PROGRESS_INTERVAL_S = 0.25
MAX_TOLD_CHARS = 1000
NICENESS = 5
CPU_SHARE = 0.5
"""A report makes nobody wait. Threads that wait for each other lose most where the machine is busy."""


class Insight:
    """What parts have in common is there once, from when the first of them needs it."""

    def __init__(self, asked: InsightRequest) -> None:
        """Raises ImportFailed and ArtifactError."""
        self._asked = asked
        self._folder = ensure_imported(asked.base, asked.bases_dir)
        revision = "".join(c if c.isalnum() or c in "._-" else "_" for c in asked.base.revision)
        self._kept = asked.kept_dir / f"{asked.base.id}@{revision}"
        self._base = BaseWeights(self._folder, self._kept)
        self._artifact = self._read(asked.model)

    def make(self, part: Part, on_progress: OnProgress) -> Json:
        """Raises NotMeasurable, ArtifactError, and ValueError for rows that are none."""
        seed, artifact, base = self._asked.seed, self._artifact, self._base
        match part:
            case request.WeightsPart():
                return weights.measure(artifact, base, seed, on_progress)
            case request.IntrudersPart():
                return intruders.measure(artifact, base, seed, on_progress, part.num_blocks)
            case request.SubspacesPart():
                folders = [*self._asked.checkpoints, self._asked.model]
                return subspaces.measure(
                    [(each.name, self._read(each)) for each in folders], seed, on_progress
                )
            case _:
                return self._of_words(part, on_progress)

    def _of_words(self, part: Part, on_progress: OnProgress) -> Json:
        """What needs the model itself, and not only its weights."""
        match part:
            case request.SamplesPart():
                return forgetting.of_samples(self._reference(on_progress))
            case request.PromptsPart():
                prompts = [row.ids[: row.scored[0]] for row in self._rows(part) if row.scored]
                stop_ids = self._template.tokenizer.stop_ids
                return forgetting.of_prompts(self._model, prompts, stop_ids, part.num_tokens)
            case request.NeutralPart():
                return forgetting.of_neutral(self._model, self._template.tokenizer)
            case request.TokensPart():
                return shifts.tokens(self._model, self._rows(part))
            case request.LayersPart():
                return shifts.layers(self._model, self._rows(part))
            case request.AblationPart():
                return depth.ablation(self._model, self._rows(part), on_progress)
            case request.DialPart():
                return self._dial(part, on_progress)
        raise ValueError(f"no part is called {part.part}")

    def _dial(self, part: request.DialPart, on_progress: OnProgress) -> Json:
        rows = self._rows(part)
        # What cannot be turned down is told before anything is drawn for it.
        few = None
        if self._model.adapted and part.num_samples:
            few = self._reference(on_progress).part(part.num_samples)
        return depth.dial(self._model, rows, few, part.strengths, on_progress)

    def _rows(self, part: request.PartWithRows) -> list[TokenRow]:
        """Raises NotMeasurable."""
        rows = read_rows(part.rows, self._template, part.max_tokens)
        if not rows:
            raise NotMeasurable(
                f"none of the rows can be read by this base in {part.max_tokens} tokens"
            )
        return rows

    @cached_property
    def _model(self) -> TunedModel:
        return TunedModel(self._folder, self._artifact, self._asked.precision)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate.load(self._folder)

    def _reference(self, on_progress: OnProgress) -> Reference:
        if self._known_reference is None:
            self._known_reference = Reference.of_base(
                self._model, self._folder, self._kept, on_progress
            )
        return self._known_reference

    _known_reference: Reference | None = None

    def _read(self, asked: AskedArtifact) -> Artifact:
        return format_of(asked.kind).read(asked.folder, self._base.config)


class _Progress:
    def __init__(self, part: str) -> None:
        self._part = part
        self._told_at = 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._told_at > PROGRESS_INTERVAL_S:
            self._told_at = now
            _say(part=self._part, progress=share)


def main(path: str) -> int:
    leash.exit_with_parent()
    os.nice(NICENESS)
    torch.set_num_threads(max(1, int(CPU_SHARE * torch.get_num_threads())))
    asked = InsightRequest.model_validate_json(Path(path).read_bytes())
    try:
        insight = Insight(asked)
        for part in asked.parts:
            _make(part.part, lambda told, part=part: insight.make(part, told))  # type: ignore[misc]
    except (ArtifactError, ImportFailed) as error:
        _say(failed=str(error)[:MAX_TOLD_CHARS].replace("\0", "\\0"))
        return 0
    _say(end=True)
    return 0


def _make(name: str, make: Callable[[OnProgress], Json]) -> None:
    began_s = time.perf_counter()
    try:
        found = make(_Progress(name))
    except NotMeasurable as error:
        _say(part=name, skipped=str(error))
    else:
        _say(part=name, done=_finite(found), seconds=round(time.perf_counter() - began_s, 3))


def _finite(value: Any) -> Any:
    """What no number stands for is none in JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _say(**news: Any) -> None:
    sys.stdout.write(json.dumps(news, allow_nan=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
