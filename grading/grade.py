"""One grader, one sample, one item in; a `Graded` out. What goes wrong is a flag in it, never an exception."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from . import formula, model_graders, python_graders, string_check, template, text_similarity
from .graders import (
    Grader,
    LabelModelGrader,
    Loc,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    SimpleGrader,
    StringCheckGrader,
    SubGrader,
    TextSimilarityGrader,
    invalid,
)
from .reward import CannotGrade, Graded

Json = dict[str, Any]


class ModelFailed(Exception):
    """The model that was to grade gave no answer."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        """The field of the request that is at fault, if one is."""


Complete = Callable[[Json], Awaitable[Json]]
"""The body of a chat completion -> its reply. Raises ModelFailed."""


@dataclass(frozen=True)
class Sample:
    """What a model answered, as templates and Python graders see it."""

    output_text: str
    output_tools: list[Json] = field(default_factory=list)

    def variables(self) -> Json:
        """What templates may name; `output_json` is left out where the text is no JSON."""
        message = {
            "role": "assistant",
            "content": self.output_text,
            "refusal": None,
            "tool_calls": self.output_tools or None,
        }
        variables = {
            "output_text": self.output_text,
            "output_tools": self.output_tools,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        try:
            # Stricter than json's: no NaN, no lone surrogates, bounded depth.
            output_json = orjson.loads(self.output_text)
        except ValueError:
            return variables
        return variables | {"output_json": output_json}


async def grade(grader: Grader, sample: Sample, item: Json, complete: Complete) -> Graded:
    """Raises nothing but what is a fault of ours."""
    started_s = time.monotonic()
    grading = _Grading({"item": item, "sample": sample.variables()}, complete)
    if isinstance(grader, MultiGrader):
        graded = await grading.multi(grader)
    else:
        graded = await grading.simple(grader)
    graded.execution_time_s = time.monotonic() - started_s
    return graded


def check(grader: Grader, loc: Loc = ("grader",)) -> None:
    """What can be known without a sample: variables and formula. Raises InvalidGrader."""
    for part in parts(grader, loc):
        for where, text in _texts(part.grader):
            try:
                template.check(text)
            except template.InvalidVariable as error:
                raise invalid((*part.loc, *where), f"{error}.", text) from None
    if isinstance(grader, MultiGrader):
        where = (*loc, "calculate_output")
        try:
            unknown = formula.parse(grader.calculate_output).names - _callable_by(grader).keys()
        except formula.FormulaError as error:
            raise invalid(where, f"{error}.", grader.calculate_output) from None
        if unknown:
            raise invalid(where, f"there is no grader {min(unknown)!r}.", grader.calculate_output)


def parts(grader: Grader, loc: Loc = ("grader",)) -> tuple[SubGrader, ...]:
    """A multi grader's parts; of another grader, itself."""
    return (
        grader.parts if isinstance(grader, MultiGrader) else (SubGrader(grader.name, loc, grader),)
    )


class _Grading:
    def __init__(self, variables: Json, complete: Complete) -> None:
        self._variables = variables
        self._complete = complete

    async def multi(self, grader: MultiGrader) -> Graded:
        """A part that fails leaves the whole without a reward: a formula may well reward a zero."""
        all_graded = await asyncio.gather(*(self.simple(part.grader) for part in grader.parts))
        graded = Graded()
        for part, each in zip(grader.parts, all_graded, strict=True):
            graded.sub_rewards[part.key] = each.reward
            graded.errors.merge(each.errors)
            for model, usage in each.usage.items():
                if model in graded.usage:
                    graded.usage[model].add(usage)
                else:
                    graded.usage[model] = usage
        graded.scores = dict(graded.sub_rewards)
        values = {name: graded.sub_rewards[part.key] for name, part in _callable_by(grader).items()}
        try:
            reward = formula.parse(grader.calculate_output).evaluate(values)
        except formula.FormulaError as error:
            graded.errors.add(CannotGrade("formula_parse_error", f"The formula: {error}."))
            reward = 0.0
        graded.reward = 0.0 if graded.errors.any else reward
        return graded

    async def simple(self, grader: SimpleGrader) -> Graded:
        graded = Graded()
        try:
            graded.reward = await self._reward(grader, graded)
        except CannotGrade as error:
            graded.errors.add(error)
        return graded

    async def _reward(self, grader: SimpleGrader, graded: Graded) -> float:
        match grader:
            case StringCheckGrader():
                text, reference = self._render(grader.input), self._render(grader.reference)
                return string_check.reward(grader.operation, text, reference)
            case TextSimilarityGrader():
                return await self._similarity(grader)
            case ScoreModelGrader():
                body = model_graders.score_request(grader, self._render)
                return model_graders.score(await self._ask(body, graded), *grader.range)
            case LabelModelGrader():
                body = model_graders.label_request(grader, self._render)
                label = model_graders.label(await self._ask(body, graded), grader.labels)
                graded.scores["label"] = label
                return float(label in grader.passing_labels)
            case PythonGrader():
                return await python_graders.reward(
                    grader.source, self._variables["sample"], self._variables["item"]
                )

    async def _similarity(self, grader: TextSimilarityGrader) -> float:
        text, reference = self._render(grader.input), self._render(grader.reference)
        try:
            return await asyncio.to_thread(
                text_similarity.reward, grader.evaluation_metric, text, reference
            )
        except text_similarity.ComparedTextTooLong:
            limit = text_similarity.MAX_TEXT_CHARS
            raise CannotGrade(
                "truncated_observation_error", f"A text is longer than {limit} characters."
            ) from None

    async def _ask(self, body: Json, graded: Graded) -> str:
        """The model's words; notes what they took."""
        try:
            completion = await self._answer(body)
        except ModelFailed as error:
            raise CannotGrade("model_grader_server_error", str(error)) from None
        model = str(completion.get("model") or body["model"])
        graded.sampled_model_name = model
        graded.usage[model] = model_graders.usage(completion)
        return model_graders.content(completion)

    async def _answer(self, body: Json) -> Json:
        try:
            return await self._complete(body)
        except ModelFailed as error:
            if error.param is None or not error.param.startswith("response_format"):
                raise
        # Not every inference server can enforce a schema; the prompt asks for the form, too.
        return await self._complete({k: v for k, v in body.items() if k != "response_format"})

    def _render(self, text: str) -> str:
        try:
            return template.render(text, self._variables)
        except template.TooLong:
            limit = template.MAX_RENDERED_CHARS
            raise CannotGrade(
                "truncated_observation_error",
                f"A text is longer than {limit} characters with its variables put in.",
            ) from None
        except template.InvalidVariable as error:
            if "output_json" not in self._variables["sample"] and _asks_for_json(text):
                raise CannotGrade("sample_parse_error", "The sample is no JSON.") from None
            raise CannotGrade("invalid_variable_error", f"The variable {error}.") from None


def _asks_for_json(text: str) -> bool:
    try:
        return any(path[:2] == ["sample", "output_json"] for path in template.paths(text))
    except template.InvalidVariable:
        return False


def _texts(grader: SimpleGrader) -> Iterator[tuple[Loc, str]]:
    """Where it has templates, and what they are."""
    match grader:
        case StringCheckGrader() | TextSimilarityGrader():
            yield ("input",), grader.input
            yield ("reference",), grader.reference
        case ScoreModelGrader() | LabelModelGrader():
            for index, message in enumerate(grader.input):
                for text in message.texts:
                    yield ("input", index, "content"), text


def _callable_by(grader: MultiGrader) -> dict[str, SubGrader]:
    """What a formula may call each part: its key, or a name written with underscores, or
    `<type>_score` where it is the only one of its type. The first two are the documented ways."""
    names: dict[str, SubGrader] = {}
    kinds = [part.grader.type for part in grader.parts]
    for part in grader.parts:
        if kinds.count(part.grader.type) == 1:
            names[f"{part.grader.type}_score"] = part
    for part in grader.parts:
        names["".join(c if c.isalnum() else "_" for c in part.key)] = part
    return names | {part.key: part for part in grader.parts}
