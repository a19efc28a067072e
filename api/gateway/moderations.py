"""POST /v1/moderations, in OpenAI's form; `moderation` says by which classifier."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from api.auth import ProjectCaller
from api.wiring import Wired
from foundation.errors import InvalidRequest
from foundation.headers import BATCH
from storage.ids import new_id

from . import inference, moderation
from .disconnects import unless_disconnected
from .moderation import Judgement

router = APIRouter(prefix="/v1/moderations", tags=["inference"])

Json = dict[str, Any]

MAX_INPUTS = 256
"""As many as are classified in one request."""


class ModerationResult(BaseModel):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]

    @classmethod
    def of(cls, judgement: Judgement) -> ModerationResult:
        flagged = judgement.flagged
        return cls(
            flagged=bool(flagged),
            categories={name: name in flagged for name in judgement.scores},
            category_scores=judgement.scores,
            # Of a category that the classifier does not know, no input says anything.
            category_applied_input_types={
                name: ["text"] if name in judgement.known else [] for name in judgement.scores
            },
        )


class ModerationList(BaseModel):
    id: str
    model: str
    """The classifier's name."""
    results: list[ModerationResult]


_TEXT = {"type": "string"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input"],
                    "properties": {
                        "input": {
                            "anyOf": [
                                _TEXT,
                                {"type": "array", "items": _TEXT},
                                {"type": "array", "items": {"type": "object"}},
                            ]
                        },
                        "model": _TEXT,
                    },
                    "additionalProperties": True,
                }
            }
        },
    }
}


@router.post("", openapi_extra=_BODY)
async def create_moderation(
    request: Request, response: Response, caller: ProjectCaller, wiring: Wired
) -> ModerationList:
    project_id = caller.project_id
    async with wiring.large_bodies.turn(request, project_id):
        body = await inference.read_body(request, project_id, wiring)
        texts = _texts(body.get("input"))
        name = _name(body.get("model"))
        async with wiring.entrance.turn(project_id):
            judge = await moderation.find(wiring, caller, name)
            judging = moderation.judge(
                wiring,
                caller,
                judge,
                texts,
                request_id=request.state.request_id,
                is_batch=caller.is_internal and BATCH in request.headers,
            )
            judgements, headers = await unless_disconnected(request, judging)
    response.headers.update(headers)
    return ModerationList(
        id=new_id("modr-"),
        model=judge.target.canonical_name,
        results=[ModerationResult.of(judgement) for judgement in judgements],
    )


def _name(given: object) -> str | None:
    if given is None or isinstance(given, str):
        return given
    raise InvalidRequest(
        "Invalid type for 'model': expected a model's name.", param="model", code="invalid_type"
    )


def _texts(given: object) -> list[str]:
    """One by one. Parts of several kinds are one input, as OpenAI has it. Raises InvalidRequest."""
    if given is None:
        raise InvalidRequest(
            "Missing required parameter: 'input'.",
            param="input",
            code="missing_required_parameter",
        )
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_INPUTS:
        raise _wrong(f"expected a string or an array of 1 to {MAX_INPUTS}")
    if all(isinstance(each, dict) for each in given):
        return ["\n".join(_text_of(part, place) for place, part in enumerate(given))]
    if not all(isinstance(each, str) for each in given):
        raise _wrong("expected an array of strings, or one of objects with a 'type'")
    return given


def _text_of(part: Json, place: int) -> str:
    kind = part.get("type")
    if kind == "text" and isinstance(text := part.get("text"), str):
        return text
    if kind == "image_url":
        raise InvalidRequest(
            f"Invalid 'input[{place}]': this server's models read no images; send texts.",
            param=f"input[{place}].type",
            code="unsupported_value",
        )
    raise _wrong(f'input[{place}] is no object with "type": "text" and a string as its \'text\'')


def _wrong(what: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'input': {what}.", param="input", code="invalid_type")
