"""POST /v1/completions: the wire types, and deltas turned into choices."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from modeling.tokenizer import Tokenizer
from storage.errors import InvalidRequest

from .replies import Reply, Wire
from .requests import GenerationRequest, UnsupportedParameter
from .sampling import TokenLogprob
from .sequence import Delta
from .vocabulary import Vocabulary

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 2048


@dataclass(frozen=True)
class Prompt:
    token_ids: list[int]
    text: str


class CompletionRequest(GenerationRequest):
    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    best_of: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: str | None = None

    def check_supported(self) -> None:
        """Raises `UnsupportedParameter` for what would be ignored to the user's harm."""
        if self.suffix:
            raise UnsupportedParameter("suffix")
        if (self.best_of or 1) > (self.n or 1):
            raise UnsupportedParameter("best_of", " It must not be greater than 'n'.")

    @property
    def max_new_tokens(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.logprobs if self.echo else None

    def prompts(self, tokenizer: Tokenizer) -> list[Prompt]:
        """One prompt or several, as text or as token ids. Raises `InvalidRequest`."""
        given = self.prompt
        if isinstance(given, str):
            return [_from_text(given, tokenizer)]
        if not given or len(given) > MAX_PROMPTS:
            raise InvalidRequest(
                f"Invalid 'prompt': expected 1 to {MAX_PROMPTS} prompts.", param="prompt"
            )
        if isinstance(given[0], int):
            return [_from_ids([i for i in given if isinstance(i, int)], tokenizer)]
        return [
            _from_text(one, tokenizer) if isinstance(one, str) else _from_ids(one, tokenizer)
            for one in given
            if not isinstance(one, int)
        ]


def _from_text(text: str, tokenizer: Tokenizer) -> Prompt:
    token_ids = tokenizer.encode_with_special(text)
    if not token_ids:
        # Something must predict the first token: what stands between documents.
        start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        token_ids = [] if start is None else [start]
    return Prompt(token_ids, text)


def _from_ids(token_ids: list[int], tokenizer: Tokenizer) -> Prompt:
    return Prompt(token_ids, tokenizer.decode(token_ids, skip_special=False))


@dataclass
class _Logprobs:
    """OpenAI's shape: four lists of one length."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def body(self) -> Wire:
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }


class Completion(Reply):
    """A reply to one or several prompts, streamed or whole. Choice k of prompt i has index i * n + k."""

    def __init__(
        self, request: CompletionRequest, prompts: Sequence[Prompt], vocabulary: Vocabulary
    ) -> None:
        self._num_choices = len(prompts) * (request.n or 1)
        super().__init__(
            id_prefix="cmpl-",
            model=request.model,
            num_choices=self._num_choices,
            num_prompts=len(prompts),
        )
        self._request = request
        self._prompts = prompts
        self._vocabulary = vocabulary
        # Where in its choice's text the next token begins.
        self._offsets = [
            0 if request.echo else len(self._prompt(i).text) for i in range(self._num_choices)
        ]

    async def collect(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> Wire:
        """The whole reply."""
        texts = [self._echoed(i) for i in range(self._num_choices)]
        logprobs = [_Logprobs() for _ in texts]
        finish_reasons: list[str | None] = [None] * self._num_choices
        async for index, delta in deltas:
            texts[index] += delta.text
            self._add_logprobs(logprobs[index], index, delta)
            if delta.usage is not None:
                finish_reasons[index] = delta.finish_reason
                self.usages[index] = delta.usage
        choices = [
            self._choice(index, text, logprobs[index], finish_reasons[index])
            for index, text in enumerate(texts)
        ]
        return {**self.head("text_completion"), "choices": choices, "usage": self.usage_body()}

    async def stream(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> AsyncGenerator[Wire]:
        """The reply in chunks, then the usage if it was asked for."""
        echoed = [self._echoed(i) for i in range(self._num_choices)]
        async with aclosing(deltas):
            async for index, delta in deltas:
                logprobs = _Logprobs()
                self._add_logprobs(logprobs, index, delta)
                text, echoed[index] = echoed[index] + delta.text, ""
                if text or logprobs.tokens or delta.finish_reason is not None:
                    yield self._chunk(self._choice(index, text, logprobs, delta.finish_reason))
                if delta.usage is not None:
                    self.usages[index] = delta.usage
        if self._request.include_usage:
            yield {**self.head("text_completion"), "choices": [], "usage": self.usage_body()}

    def _chunk(self, choice: Wire) -> Wire:
        chunk = {**self.head("text_completion"), "choices": [choice]}
        return {**chunk, "usage": None} if self._request.include_usage else chunk

    def _choice(
        self, index: int, text: str, logprobs: _Logprobs, finish_reason: str | None
    ) -> Wire:
        return {
            "index": index,
            "text": text,
            "logprobs": None if self._request.logprobs is None else logprobs.body(),
            "finish_reason": finish_reason,
        }

    def _prompt(self, index: int) -> Prompt:
        return self._prompts[index // (self._request.n or 1)]

    def _echoed(self, index: int) -> str:
        return self._prompt(index).text if self._request.echo else ""

    def _add_logprobs(self, logprobs: _Logprobs, index: int, delta: Delta) -> None:
        if self._request.logprobs is None:
            return
        if delta.prompt_logprobs is not None:
            token_ids = self._prompt(index).token_ids
            for token_id, entry in zip(token_ids, delta.prompt_logprobs, strict=True):
                self._add_token(logprobs, index, token_id, entry)
        for token in delta.tokens:
            self._add_token(logprobs, index, token.token_id, token.logprob)

    def _add_token(
        self, logprobs: _Logprobs, index: int, token_id: int, entry: TokenLogprob | None
    ) -> None:
        text = self._vocabulary.text_of(token_id)
        logprobs.tokens.append(text)
        logprobs.text_offset.append(self._offsets[index])
        if not text.startswith("bytes:"):
            self._offsets[index] += len(text)
        if entry is None:
            logprobs.token_logprobs.append(None)
            logprobs.top_logprobs.append(None)
            return
        logprobs.token_logprobs.append(entry.logprob)
        top = {self._vocabulary.text_of(i): value for i, value in entry.top}
        logprobs.top_logprobs.append({**top, text: entry.logprob})
