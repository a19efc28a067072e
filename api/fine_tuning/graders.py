"""/v1/fine_tuning/alpha/graders: run one grader on one sample, or only look whether it is well-formed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api import errors
from api.auth import ProjectCaller
from api.gateway import inference, targets
from api.requests import bodies
from api.wiring import Wired, Wiring
from foundation.bodies import MAX_LONG_BODY_BYTES
from foundation.errors import InvalidRequest, LuthierError, NotFound, Unavailable
from grading import grade, python_graders, sandbox
from grading.graders import (
    Grader,
    InvalidGrader,
    LabelModelGrader,
    Loc,
    PythonGrader,
    ScoreModelGrader,
    parse,
)
from grading.reward import Graded
from storage.organization.api_keys import Caller

log = structlog.get_logger()
router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"])

Json = dict[str, Any]
TYPES = ("string_check", "text_similarity", "score_model", "label_model", "python", "multi")
SentGrader = Annotated[
    Json,
    Field(
        description="As in OpenAI's API; `graders` of a multi grader may be an object, a list or one grader.",
        json_schema_extra={
            "required": ["type", "name"],
            "properties": {"type": {"enum": list(TYPES)}, "name": {"type": "string"}},
        },
    ),
]


class RunGrader(BaseModel):
    grader: SentGrader
    model_sample: str
    item: Json | None = None


class ValidateGrader(BaseModel):
    grader: SentGrader


class ValidatedGrader(BaseModel):
    grader: Json
    """As it was sent."""


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class GraderErrors(BaseModel):
    formula_parse_error: bool
    sample_parse_error: bool
    truncated_observation_error: bool
    unresponsive_reward_error: bool
    invalid_variable_error: bool
    other_error: bool
    python_grader_server_error: bool
    python_grader_server_error_type: str | None
    python_grader_runtime_error: bool
    python_grader_runtime_error_details: str | None
    model_grader_server_error: bool
    model_grader_server_error_details: str | None
    model_grader_refusal_error: bool
    model_grader_parse_error: bool
    details: str | None
    """Not OpenAI's: what the first of the flags is about."""


class RunMetadata(BaseModel):
    name: str
    type: Literal[
        "string_check", "text_similarity", "score_model", "label_model", "python", "multi"
    ]
    errors: GraderErrors
    execution_time: float
    """In seconds."""
    scores: Json
    token_usage: int | None
    sampled_model_name: str | None


class GraderRun(BaseModel):
    reward: float
    metadata: RunMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, TokenUsage]

    @classmethod
    def of(cls, grader: Grader, graded: Graded) -> GraderRun:
        return cls(
            reward=graded.reward,
            metadata=RunMetadata(
                name=grader.name,
                type=grader.type,
                errors=GraderErrors(**asdict(graded.errors)),
                execution_time=graded.execution_time_s,
                scores=graded.scores,
                token_usage=graded.num_tokens,
                sampled_model_name=graded.sampled_model_name,
            ),
            sub_rewards=graded.sub_rewards,
            model_grader_token_usage_per_model={
                model: TokenUsage(**asdict(usage)) for model, usage in graded.usage.items()
            },
        )


@router.post("/run", openapi_extra=bodies.document(RunGrader))
async def run_grader(
    body: Annotated[RunGrader, Depends(bodies.json_body(RunGrader, max_bytes=MAX_LONG_BODY_BYTES))],
    caller: ProjectCaller,
    wiring: Wired,
) -> GraderRun:
    """A grader that cannot be run at all is refused; what goes wrong in running it is a flag in the reply."""
    grader = _parsed(body.grader)
    await _check_means(wiring, caller, grader)

    async def complete(request: Json) -> Json:
        return await _complete(wiring, caller, request)

    sample = grade.Sample(body.model_sample)
    return GraderRun.of(grader, await grade.grade(grader, sample, body.item or {}, complete))


@router.post("/validate", openapi_extra=bodies.document(ValidateGrader))
async def validate_grader(
    body: Annotated[
        ValidateGrader,
        Depends(bodies.json_body(ValidateGrader, max_bytes=MAX_LONG_BODY_BYTES)),
    ],
    caller: ProjectCaller,
    wiring: Wired,
) -> ValidatedGrader:
    """Also templates, formula and Python source, as far as they can be judged without a sample."""
    grader = _parsed(body.grader)
    try:
        grade.check(grader)
    except InvalidGrader as error:
        raise errors.explain([error.details]) from None
    await _check_means(wiring, caller, grader)
    for part in grade.parts(grader):
        if isinstance(part.grader, PythonGrader):
            problem = await python_graders.problem(part.grader.source)
            if problem is not None:
                param = _param(part.loc, "source")
                raise InvalidRequest(
                    f"Invalid '{param}': {problem}", param=param, code="invalid_value"
                )
    return ValidatedGrader(grader=body.grader)


def _parsed(sent: Json) -> Grader:
    try:
        return parse(sent)
    except InvalidGrader as error:
        raise errors.explain([error.details]) from None


async def _check_means(wiring: Wiring, caller: Caller, grader: Grader) -> None:
    """Whether there are the models that it asks, and a sandbox for its Python. Raises InvalidRequest."""
    for part in grade.parts(grader):
        if isinstance(part.grader, ScoreModelGrader | LabelModelGrader):
            await _check_model(wiring, caller, part.grader.model, _param(part.loc, "model"))
        elif isinstance(part.grader, PythonGrader):
            try:
                await sandbox.require()
            except sandbox.SandboxUnavailable as error:
                log.warning("sandbox.unavailable", reason=str(error))
                raise InvalidRequest(
                    "Python graders are not available on this server: their code runs in a sandbox "
                    f"only, and none can be built here ({error}).",
                    param=_param(part.loc, "type"),
                    code="python_grader_unavailable",
                ) from None


async def _check_model(wiring: Wiring, caller: Caller, name: str, param: str) -> None:
    try:
        await targets.resolve(wiring, caller, targets.model_name({"model": name}))
    except (NotFound, InvalidRequest) as error:
        raise InvalidRequest(error.message, param=param, code=error.code) from None


async def _complete(wiring: Wiring, caller: Caller, body: Json) -> Json:
    try:
        return await inference.complete(wiring, caller, body)
    except LuthierError as error:
        if error.status < 500 or (isinstance(error, Unavailable) and error.__cause__ is None):
            raise grade.ModelFailed(error.message, error.param) from None
        # Its text is for the operator.
        log.error("grader.model_failed", error=str(error), exc_info=error)
        raise grade.ModelFailed(errors.SERVER_ERROR) from None


def _param(loc: Loc, field: str) -> str:
    return ".".join(map(str, (*loc, field)))
