"""The graders as they come over the wire, and `parse`, which says exactly what is wrong with one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

MAX_SOURCE_BYTES = 256 * 1024
MAX_GRADERS = 32
"""In one multi grader."""

T = TypeVar("T", bound=BaseModel)
Loc = tuple[int | str, ...]
Metric = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]
Name = Annotated[str, Field(max_length=256)]


class InvalidGrader(Exception):
    """`details` are in the form of pydantic's errors: `type`, `loc`, `msg`, `input`, `ctx`."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(details.get("msg", details["type"]))
        self.details = details


def invalid(loc: Loc, message: str, value: object = None) -> InvalidGrader:
    return InvalidGrader({"type": "grader", "loc": loc, "msg": message, "input": value})


class StringCheckGrader(BaseModel):
    type: Literal["string_check"]
    name: Name
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarityGrader(BaseModel):
    """`pass_threshold` belongs to evals; it is echoed and means nothing here."""

    type: Literal["text_similarity"]
    name: Name
    input: str
    reference: str
    evaluation_metric: Metric


class TextPart(BaseModel):
    """Pictures and sound are not among what the models here can be shown."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class GraderMessage(BaseModel):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | TextPart | Annotated[list[str | TextPart], Field(fail_fast=True)]
    type: Literal["message"] = "message"

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, value: Any) -> Any:
        # A union's own errors name every form that the content could have had.
        content = value.get("content") if isinstance(value, dict) else ""
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                part = part.get("type") in ("input_text", "output_text", "text") and part["text"]
            if not isinstance(part, str) and content is not None:
                raise PydanticCustomError(
                    "content", "the content of a message is text or a list of texts."
                )
        return value

    @property
    def texts(self) -> list[str]:
        parts = self.content if isinstance(self.content, list) else [self.content]
        return [part if isinstance(part, str) else part.text for part in parts]


Messages = Annotated[list[GraderMessage], Field(min_length=1, max_length=256, fail_fast=True)]


class GraderSampling(BaseModel):
    """`reasoning_effort` is tolerated: the models here do not reason apart from their answer."""

    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    # The first spelling is OpenAI's.
    max_completions_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None


def _check_range(value: list[float]) -> list[float]:
    if not all(map(math.isfinite, value)) or value[0] >= value[1]:
        raise PydanticCustomError(
            "range", "expected the lowest and the highest score, in this order."
        )
    return value


class ScoreModelGrader(BaseModel):
    type: Literal["score_model"]
    name: Name
    model: str
    input: Messages
    range: Annotated[
        list[float], Field(min_length=2, max_length=2, fail_fast=True), AfterValidator(_check_range)
    ] = [0.0, 1.0]
    sampling_params: GraderSampling | None = None


class LabelModelGrader(BaseModel):
    type: Literal["label_model"]
    name: Name
    model: str
    input: Messages
    labels: Annotated[list[str], Field(min_length=1, max_length=256, fail_fast=True)]
    passing_labels: Annotated[list[str], Field(max_length=256, fail_fast=True)]
    sampling_params: GraderSampling | None = None


def _check_source(value: str) -> str:
    if len(value.encode()) > MAX_SOURCE_BYTES:
        raise PydanticCustomError(
            "source", "the source is longer than {limit} bytes.", {"limit": MAX_SOURCE_BYTES}
        )
    return value


class PythonGrader(BaseModel):
    """`image_tag` is tolerated: there is one sandbox."""

    type: Literal["python"]
    name: Name
    source: Annotated[str, AfterValidator(_check_source)]
    image_tag: str | None = None


class MultiGraderFields(BaseModel):
    type: Literal["multi"]
    name: Name
    graders: dict[str, Any] | list[Any]
    calculate_output: str


SimpleGrader = (
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | LabelModelGrader | PythonGrader
)


@dataclass(frozen=True)
class SubGrader:
    """One grader of a multi grader."""

    key: str
    """Its key, or its name where the graders were sent without keys."""
    loc: Loc
    grader: SimpleGrader


@dataclass(frozen=True)
class MultiGrader:
    name: str
    parts: tuple[SubGrader, ...]
    calculate_output: str
    type: Literal["multi"] = "multi"


Grader = SimpleGrader | MultiGrader

_SIMPLE: dict[str, type[SimpleGrader]] = {
    "string_check": StringCheckGrader,
    "text_similarity": TextSimilarityGrader,
    "score_model": ScoreModelGrader,
    "label_model": LabelModelGrader,
    "python": PythonGrader,
}


def parse(value: object, loc: Loc = ("grader",)) -> Grader:
    """A grader from JSON. Raises InvalidGrader, whose `loc` begins with the given one."""
    if _type_of(value, loc, (*_SIMPLE, "multi")) == "multi":
        return _parse_multi(value, loc)
    return _parse_simple(value, loc)


def _parse_simple(value: object, loc: Loc) -> SimpleGrader:
    grader = _load(_SIMPLE[_type_of(value, loc, tuple(_SIMPLE))], value, loc)
    if isinstance(grader, LabelModelGrader):
        strange = [label for label in grader.passing_labels if label not in grader.labels]
        if strange:
            raise invalid((*loc, "passing_labels"), f"{strange[0]!r} is none of the labels.")
    return grader


def _parse_multi(value: object, loc: Loc) -> MultiGrader:
    fields = _load(MultiGraderFields, value, loc)
    sent, here = fields.graders, (*loc, "graders")
    entries: list[tuple[str | None, Loc, object]]
    if isinstance(sent, list):
        entries = [(None, (*here, index), each) for index, each in enumerate(sent)]
    elif isinstance(sent.get("type"), str):
        entries = [(None, here, sent)]
    else:
        entries = [(key, (*here, key), each) for key, each in sent.items()]
    if not 1 <= len(entries) <= MAX_GRADERS:
        raise invalid(here, f"expected 1 to {MAX_GRADERS} graders, but got {len(entries)} instead.")
    parts: dict[str, SubGrader] = {}
    for key, where, each in entries:
        grader = _parse_simple(each, where)
        key = grader.name if key is None else key
        if key in parts:
            raise invalid((*where, "name"), f"there is another grader named {key!r}.")
        parts[key] = SubGrader(key, where, grader)
    return MultiGrader(fields.name, tuple(parts.values()), fields.calculate_output)


def _type_of(value: object, loc: Loc, known: tuple[str, ...]) -> str:
    if not isinstance(value, dict):
        raise InvalidGrader({"type": "dict_type", "loc": loc, "input": value})
    loc = (*loc, "type")
    if "type" not in value:
        raise InvalidGrader({"type": "missing", "loc": loc, "input": value})
    kind = value["type"]
    if not isinstance(kind, str):
        raise InvalidGrader({"type": "string_type", "loc": loc, "input": kind})
    if kind not in known:
        expected = ", ".join(map(repr, known[:-1])) + f" or {known[-1]!r}"
        raise InvalidGrader(
            {"type": "literal_error", "loc": loc, "input": kind, "ctx": {"expected": expected}}
        )
    return kind


def _load(model: type[T], value: object, loc: Loc) -> T:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        raise InvalidGrader({**details, "loc": (*loc, *details["loc"])}) from None
