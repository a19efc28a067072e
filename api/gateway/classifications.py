"""/v1/luthier/classifications: which of its labels a model that was trained to classify holds for right, and how surely.

A label's score is the log-probability of all its tokens and the end behind them, or what its row of the model's head says,
and its probability the share that it has of the scores of all labels. All of that is one request, in which the input is
read once.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.wiring import Wired
from foundation.errors import InvalidRequest
from storage.jobs import classes
from storage.models import models

from .exchange import CLASSIFY_PATH
from .inference import pass_on
from .targets import Target

router = APIRouter(prefix=CLASSIFY_PATH, tags=["luthier"])

Json = dict[str, Any]


class ClassifiedInput(BaseModel):
    object: Literal["classification"] = "classification"
    index: int
    """Of the input."""
    label: str
    """The most probable one."""
    probability: float
    probabilities: dict[str, float]


class ClassificationList(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[ClassifiedInput]
    usage: Json


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "input"],
                    "properties": {
                        "model": {"type": "string"},
                        "input": {
                            "description": "A text, several, or the messages of a chat.",
                            "anyOf": [
                                {"type": "string"},
                                {"type": "array", "items": {"type": "string"}},
                                {"type": "array", "items": {"type": "object"}},
                            ],
                        },
                    },
                    "additionalProperties": True,
                }
            }
        },
    }
}


@router.post("", response_model=ClassificationList, openapi_extra=_BODY)
async def create_classification(request: Request, caller: ProjectCaller, wiring: Wired) -> Response:
    async def with_labels(body: Json, target: Target) -> Json:
        labels = await wiring.database.read(_labels, caller.project_id, target.canonical_name)
        return {**body, **labels}

    return await pass_on(CLASSIFY_PATH, request, caller, wiring, with_labels)


def _labels(session: Session, project_id: str, name: str) -> Json:
    """As the inference server wants them. Raises InvalidRequest for a model that has none."""
    found = models.find(session, project_id, name)
    of_model = classes.of_model(session, found[0]) if found is not None else None
    if of_model is None:
        raise InvalidRequest(
            f"The model `{name}` was not trained by the method 'classification', so it has no labels to choose "
            "among. Ask it through /v1/chat/completions.",
            param="model",
            code="model_not_servable",
        )
    return {"form": of_model.form, "labels": of_model.labels}
