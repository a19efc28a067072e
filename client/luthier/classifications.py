"""Which of its labels a model that was trained to classify holds for right, and how surely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from openai import BaseModel

if TYPE_CHECKING:
    from openai import OpenAI

MAX_TEXTS = 256
"""Of one request."""


class Classification(BaseModel):
    index: int
    """Of the text."""
    label: str
    """The most probable one."""
    probability: float
    probabilities: dict[str, float]


class ClassificationList(BaseModel):
    model: str
    data: list[Classification]
    usage: dict[str, Any]


class Classifications:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def create(self, model: str, input: str | Sequence[Any]) -> ClassificationList:
        """`input` is a text, up to 256 of them, or the messages of a chat, as the training rows had them."""
        body = {"model": model, "input": input if isinstance(input, str) else list(input)}
        return self._client.post("/luthier/classifications", body=body, cast_to=ClassificationList)

    def each(self, model: str, texts: Sequence[str]) -> Iterator[Classification]:
        """Of any number of texts, in as many requests as that takes; each is counted from 0 in its request."""
        for start in range(0, len(texts), MAX_TEXTS):
            yield from self.create(model, texts[start : start + MAX_TEXTS]).data
