"""Replies to POST /v1/completions: deltas turned into choices, the best of several candidates."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Delta
from serving.engine.text import GeneratedToken
from serving.engine.vocabulary import Vocabulary
from serving.replies import Reply
from serving.requests import Wire

from .request import CompletionRequest, Prompt


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


@dataclass
class _Score:
    """How probable a candidate is: the mean log-probability of its tokens."""

    total: float = 0.0
    num_tokens: int = 0

    def add(self, delta: Delta) -> None:
        for token in _tokens(delta):
            if token.logprob is not None:
                self.total += token.logprob.logprob
                self.num_tokens += 1

    @property
    def mean(self) -> float:
        """One without any token is the last to be taken."""
        return self.total / self.num_tokens if self.num_tokens else -math.inf


class Completion(Reply):
    """A reply to one or several prompts, streamed or whole. Choice k of prompt i has index i * n + k."""

    def __init__(
        self,
        request: CompletionRequest,
        prompts: Sequence[Prompt],
        vocabulary: Vocabulary,
        first_tokens: Mapping[int, TokenLogprob],
    ) -> None:
        """`first_tokens` are the log-probabilities of the prompts' first tokens, by token id."""
        super().__init__(
            id_prefix="cmpl-",
            model=request.model,
            prompt_lengths=[len(prompt.token_ids) for prompt in prompts],
            num_choices=request.num_candidates,
        )
        self._num_candidates = len(prompts) * request.num_candidates
        self._request = request
        self._prompts = prompts
        self._vocabulary = vocabulary
        self._first_tokens = first_tokens

    async def collect(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> Wire:
        """The whole reply."""
        texts = [self._echoed(i) for i in range(self._num_candidates)]
        logprobs = [_Logprobs() for _ in texts]
        scores = [_Score() for _ in texts]
        finish_reasons: list[str | None] = [None] * self._num_candidates
        async for index, delta in deltas:
            texts[index] += delta.text
            self._add_logprobs(logprobs[index], index, delta)
            scores[index].add(delta)
            finish_reasons[index] = delta.finish_reason
            self.count(index, delta)
        choices = [
            self._choice(place, texts[index], logprobs[index], finish_reasons[index])
            for place, index in enumerate(self._best(scores))
        ]
        return {**self.head("text_completion"), "choices": choices, "usage": self.usage_body()}

    def _best(self, scores: list[_Score]) -> list[int]:
        """The candidates that become choices: for each prompt its `n` best ones, the best first."""
        num, n = self._request.num_candidates, self._request.num_choices
        if num == n:
            return list(range(len(scores)))
        best = []
        for start in range(0, len(scores), num):
            ranked = sorted(range(start, start + num), key=lambda i: scores[i].mean, reverse=True)
            best += ranked[:n]
        return best

    async def stream(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> AsyncGenerator[Wire]:
        """The reply in chunks, then the usage if it was asked for."""
        echoed = [self._echoed(i) for i in range(self._num_candidates)]
        async with aclosing(deltas):
            async for index, delta in deltas:
                self.count(index, delta)
                logprobs = _Logprobs()
                self._add_logprobs(logprobs, index, delta)
                text, echoed[index] = echoed[index] + delta.text, ""
                if text or logprobs.tokens or delta.finish_reason is not None:
                    yield self._chunk(self._choice(index, text, logprobs, delta.finish_reason))
        if self._request.include_usage:
            yield {**self.head("text_completion"), "choices": [], "usage": self.usage_body()}

    def _chunk(self, choice: Wire) -> Wire:
        chunk = {**self.head("text_completion"), "choices": [choice]}
        return {**chunk, **self.chunk_usage(self._request)}

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
        return self._prompts[index // self._request.num_candidates]

    def _echoed(self, index: int) -> str:
        return self._prompt(index).text if self._request.echo else ""

    def _add_logprobs(self, logprobs: _Logprobs, index: int, delta: Delta) -> None:
        if self._request.logprobs is None:
            return
        prompt = self._prompt(index)
        if delta.prompt_logprobs is not None:
            entries = [self._first_tokens.get(prompt.token_ids[0]), *delta.prompt_logprobs[1:]]
            offsets = self._vocabulary.offsets(
                prompt.token_ids, prompt.text, with_special=prompt.shows_special
            )
            for place in zip(prompt.token_ids, entries, offsets, strict=True):
                self._add_token(logprobs, *place)
        # As OpenAI counts them: from the prompt's beginning, whether it is echoed or not.
        start = len(prompt.text)
        for token in _tokens(delta):
            self._add_token(logprobs, token.token_id, token.logprob, start + token.offset)

    def _add_token(
        self, logprobs: _Logprobs, token_id: int, entry: TokenLogprob | None, offset: int
    ) -> None:
        text = self._vocabulary.text_of(token_id)
        logprobs.tokens.append(text)
        logprobs.text_offset.append(offset)
        if entry is None:
            logprobs.token_logprobs.append(None)
            logprobs.top_logprobs.append(None)
            return
        logprobs.token_logprobs.append(entry.logprob)
        values = dict(entry.top) | {token_id: entry.logprob}
        texts = self._vocabulary.texts_of(values)
        logprobs.top_logprobs.append(dict(zip(texts, values.values(), strict=True)))


def _tokens(delta: Delta) -> list[GeneratedToken]:
    """With the one that ended the reply: who asks for one token behind a prompt gets one."""
    return [*delta.tokens, delta.end] if delta.end is not None else delta.tokens
