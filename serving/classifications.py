"""POST /v1/luthier/classifications: how probable each of a model's labels is as the answer to an input.

The gateway, which knows what the model was trained on, says which labels there are and in which form they are asked for.
A model with a head knows its labels itself: each is a row, which reads the last hidden state of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foundation.errors import InvalidRequest
from serving.chat.request import ChatCompletionRequest
from serving.completions.request import encode_prompt
from serving.engine.sequence import Generate, Pool
from serving.requests import Text, Whole, Wire, are_texts, is_text, one_of
from text.chat_template import ChatTemplate

from .served_base import ServedBase, ServedModel

MAX_INPUTS = 256
MAX_SEQUENCES = 256
"""That are computed side by side; a request of more inputs times labels goes on when these are done."""


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


Input = Annotated[
    str | list[str] | list[Wire],
    one_of(
        "a string, an array of strings or an array of messages", is_text, are_texts, _are_messages
    ),
]


class ScoredLabel(BaseModel):
    """A label and its tokens, with the end that was learnt behind them."""

    text: Text
    token_ids: Annotated[list[Whole], Field(min_length=1)]


class ClassificationRequest(BaseModel):
    """Fields that are not known are accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    model: Text
    input: Input
    form: Literal["chat", "completion", "text"]
    labels: list[ScoredLabel] = Field(default_factory=list)
    """None where the model has a head, which has a row for each of its own."""

    @property
    def inputs(self) -> Sequence[str | list[Wire]]:
        """One by one. Raises `InvalidRequest`."""
        given = self.input
        if isinstance(given, str):
            return [given]
        if not given or len(given) > MAX_INPUTS:
            raise InvalidRequest(
                f"Invalid 'input': expected 1 to {MAX_INPUTS} inputs, or messages.", param="input"
            )
        texts = [one for one in given if isinstance(one, str)]
        return texts or [[one for one in given if isinstance(one, dict)]]

    def prompt(
        self, given: str | list[Wire], template: ChatTemplate, *, max_seq_len: int
    ) -> list[int]:
        """The tokens behind which a label is expected. Raises `InvalidRequest`."""
        if self.form == "completion":
            if not isinstance(given, str):
                raise InvalidRequest(
                    "This model was trained on prompts and completions: expected 'input' to be a string or an "
                    "array of strings, each a prompt with what ended the prompts in training, but got messages.",
                    param="input",
                )
            return encode_prompt(given, template.tokenizer, max_seq_len=max_seq_len).token_ids
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        chat = ChatCompletionRequest(model=self.model, messages=messages)
        return chat.prompt(template, max_seq_len=max_seq_len)


@dataclass
class _Judged:
    """What is found out about an input."""

    prompt: list[int]
    scores: list[float]
    num_tokens: int
    """That were read for it."""
    cached_tokens: list[int] = field(default_factory=list)


async def classify(
    served: ServedBase,
    request: ClassificationRequest,
    prompts: Sequence[list[int]],
    *,
    model: ServedModel,
    cache_salt: str,
) -> Wire:
    """The whole reply. Raises what `ServedBase.generate` raises, and `InvalidRequest` for a model without labels."""
    labels = _labels_of(model, request)
    has_head = model.head is not None
    num_label_tokens = 0 if has_head else sum(len(label.token_ids) for label in request.labels)
    judged = [
        _Judged(prompt, [0.0] * len(labels), len(prompt) + num_label_tokens) for prompt in prompts
    ]
    size = max(MAX_SEQUENCES // (1 if has_head else len(labels)), 1)
    for start in range(0, len(judged), size):
        part = judged[start : start + size]
        if has_head:
            await _read_by_head(served, part, model, cache_salt)
        else:
            await _score(served, request, part, model, cache_salt)
    num_tokens = sum(one.num_tokens for one in judged)
    return {
        "object": "list",
        "model": request.model,
        "data": [_entry(index, labels, one) for index, one in enumerate(judged)],
        "usage": {
            "prompt_tokens": num_tokens,
            "completion_tokens": 0,
            "total_tokens": num_tokens,
            "prompt_tokens_details": {
                "cached_tokens": sum(min(one.cached_tokens) for one in judged)
            },
        },
    }


def _labels_of(model: ServedModel, request: ClassificationRequest) -> Sequence[str]:
    """Raises `InvalidRequest`."""
    labels = model.head.names if model.head is not None else [one.text for one in request.labels]
    if len(labels) < 2:
        raise InvalidRequest(
            f"The model {request.model} has no labels to choose among.",
            param="model",
            code="model_not_servable",
        )
    return labels


async def _read_by_head(
    served: ServedBase,
    judged: Sequence[_Judged],
    model: ServedModel,
    cache_salt: str,
) -> None:
    """A score a label, from the last hidden state of each prompt."""
    assert model.head is not None
    pools = [Pool(one.prompt, model.head, model.adapter, cache_salt) for one in judged]
    deltas = served.generate(model.thread, pools)
    async with aclosing(deltas):
        async for index, delta in deltas:
            if delta.pooled is not None:
                judged[index].scores = delta.pooled
            if delta.usage is not None:
                judged[index].cached_tokens.append(delta.usage.cached_tokens)


async def _score(
    served: ServedBase,
    request: ClassificationRequest,
    judged: Sequence[_Judged],
    model: ServedModel,
    cache_salt: str,
) -> None:
    """A score a label, which is how probable it is as the answer to each prompt."""
    # All first labels come first: they compute the prompts, side by side, which the other labels reuse.
    places = [(one, place) for place in range(len(request.labels)) for one in judged]
    deltas = served.generate(
        model.thread,
        [
            Generate(
                prompt=[*one.prompt, *request.labels[place].token_ids],
                max_tokens=0,
                adapter=model.adapter,
                cache_salt=cache_salt,
                num_prompt_logprobs=0,
                first_scored=len(one.prompt),
            )
            for one, place in places
        ],
    )
    async with aclosing(deltas):
        async for index, delta in deltas:
            one, place = places[index]
            if delta.prompt_logprobs is not None:
                of_label = delta.prompt_logprobs[len(one.prompt) :]
                one.scores[place] = sum(entry.logprob for entry in of_label if entry is not None)
            if delta.usage is not None:
                one.cached_tokens.append(delta.usage.cached_tokens)


def _entry(index: int, labels: Sequence[str], one: _Judged) -> Wire:
    scores = np.array(one.scores)
    shares = np.exp(scores - scores.max())
    probabilities = (shares / shares.sum()).tolist()
    best = int(scores.argmax())
    return {
        "object": "classification",
        "index": index,
        "label": labels[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(labels, probabilities, strict=True)),
    }
