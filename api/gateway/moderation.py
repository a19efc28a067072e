"""Which texts are not safe, by a classifier that was trained here: what `/v1/moderations` answers and guards go by.

The classifier is any model of the method `classification` with a label `safe`. Its other labels are categories: those of
OpenAI's under their names, and others. It is the one that the project calls `omni-moderation-latest`, an alias, else the
operator's (LUTHIER_MODERATION_MODEL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from api.wiring import Wiring
from foundation.errors import InvalidRequest, ModelNotFound, NotFound
from storage.jobs import classes
from storage.jobs.classes import Classes
from storage.models import models
from storage.models.artifacts import ArtifactRow
from storage.models.models import ModelRow
from storage.organization.api_keys import Caller

from . import targets
from .exchange import CLASSIFY_PATH, Exchange
from .targets import Target

OPENAIS_MODELS = (
    "omni-moderation-latest",
    "omni-moderation-2024-09-26",
    "text-moderation-latest",
    "text-moderation-stable",
    "text-moderation-007",
)
"""Whichever of them is asked for, it is the one classifier."""
GUARDS_ALIAS = OPENAIS_MODELS[0]
"""A project's own name for it."""
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""OpenAI's, all of which a reply has, in OpenAI's order."""
SAFE = "safe"
_HOW = (
    "To make one, train a model with the method 'classification' on texts with the label 'safe' and others such as "
    "'harassment' (`python -m examples.moderation` does it in minutes, with a data set), and bind the alias "
    f"'{GUARDS_ALIAS}' to it (POST /v1/luthier/aliases). The operator can name one for all projects with "
    "LUTHIER_MODERATION_MODEL."
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """A classifier, and what it must be asked with."""

    target: Target
    classes: Classes


@dataclass(frozen=True)
class Judgement:
    """Of a text: how probable each category is, 0 for those that the classifier does not know."""

    scores: dict[str, float]
    known: frozenset[str]
    threshold: float
    """From which probability on that it is not safe."""

    @property
    def flagged(self) -> list[str]:
        """The categories, the most probable first. It is not safe if there are any."""
        by_score = sorted(self.known, key=lambda name: -self.scores[name])
        if not by_score or sum(self.scores[name] for name in by_score) < self.threshold:
            return []
        # Spread over several, none of them need be probable by itself.
        return [n for n in by_score if self.scores[n] >= self.threshold] or by_score[:1]


async def find(wiring: Wiring, caller: Caller, name: str | None = None) -> Judge:
    """The classifier of that name; None and OpenAI's names are the project's own or the operator's.

    Raises NotFound where there is none, and InvalidRequest for a model that does not judge.
    """
    return await wiring.database.read(
        _find, caller, name or GUARDS_ALIAS, wiring.settings.moderation_model
    )


async def judge(
    wiring: Wiring,
    caller: Caller,
    by: Judge,
    texts: Sequence[str],
    *,
    request_id: str = "",
    is_batch: bool = False,
    is_limited: bool = True,
) -> tuple[list[Judgement], dict[str, str]]:
    """Of each text, and what a reply says of the request in headers.

    Raises LuthierError for whatever the inference server refuses, as for any of the project's requests.
    """
    body = {
        "model": by.target.name,
        "input": list(texts),
        "form": by.classes.form,
        "labels": by.classes.labels,
    }
    exchange = Exchange(
        wiring,
        caller,
        by.target,
        body,
        path=CLASSIFY_PATH,
        request_id=request_id,
        is_batch=is_batch,
        is_limited=is_limited,
    )
    upstream = await exchange.send()
    headers = exchange.headers
    try:
        reply = await exchange.whole(upstream)
    finally:
        await upstream.aclose()
    threshold = wiring.settings.moderation_threshold
    found = [_judgement(entry["probabilities"], threshold) for entry in reply["data"]]
    return found, headers


def _find(session: Session, caller: Caller, name: str, of_operator: str) -> Judge:
    found = models.find(session, caller.project_id, name)
    if found is None and name in OPENAIS_MODELS:
        found = models.find(session, caller.project_id, GUARDS_ALIAS)
        if found is None and of_operator:
            found = models.find_of_operator(session, of_operator)
        if found is None:
            raise NotFound(
                f"The model `{name}` does not exist: this server has no classifier for moderation. {_HOW}",
                param="model",
                code="model_not_found",
            )
    if found is None:
        raise ModelNotFound(name)
    return _judge_of(session, caller, name, *found)


def _judge_of(
    session: Session, caller: Caller, name: str, model: ModelRow, artifact: ArtifactRow
) -> Judge:
    of_model = classes.of_model(session, model)
    if of_model is None or SAFE not in map(_category, of_model.names):
        why = (
            "was not trained by the method 'classification'"
            if of_model is None
            else f"has no label '{SAFE}', only {', '.join(map(repr, of_model.names[:10]))}"
        )
        raise InvalidRequest(
            f"The model `{name}` {why}, so it cannot judge what is safe. {_HOW}",
            param="model",
            code="model_not_servable",
        )
    return Judge(targets.of_artifact(name, model, artifact, caller), of_model)


def _judgement(probabilities: dict[str, float], threshold: float) -> Judgement:
    found = {_category(label): share for label, share in probabilities.items()}
    del found[SAFE]
    return Judgement({**dict.fromkeys(CATEGORIES, 0.0), **found}, frozenset(found), threshold)


def _category(label: str) -> str:
    """In the old files labels begin with a space."""
    return label.strip().lower()
