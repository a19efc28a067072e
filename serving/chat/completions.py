"""Replies to POST /v1/chat/completions: deltas turned into choices."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from serving.engine.sequence import Delta
from serving.engine.text import GeneratedToken
from serving.engine.vocabulary import Vocabulary
from serving.replies import Reply
from serving.requests import Wire

from .request import ChatCompletionRequest


class ChatCompletion(Reply):
    """A reply to a chat, streamed or whole."""

    def __init__(
        self, request: ChatCompletionRequest, prompt_length: int, vocabulary: Vocabulary
    ) -> None:
        self._num_choices = request.n or 1
        super().__init__(
            id_prefix="chatcmpl-",
            model=request.model,
            prompt_lengths=[prompt_length],
            num_choices=self._num_choices,
        )
        self._request = request
        self._vocabulary = vocabulary

    async def collect(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> Wire:
        """The whole reply."""
        texts = [""] * self._num_choices
        tokens: list[list[GeneratedToken]] = [[] for _ in texts]
        finish_reasons: list[str | None] = [None] * self._num_choices
        async for index, delta in deltas:
            texts[index] += delta.text
            tokens[index] += delta.tokens
            finish_reasons[index] = delta.finish_reason
            self.count(index, delta)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": self._logprobs(tokens[index]),
                "finish_reason": finish_reasons[index],
            }
            for index, text in enumerate(texts)
        ]
        return {
            **self.head("chat.completion"),
            "choices": choices,
            "usage": self.usage_body(),
        }

    async def stream(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> AsyncGenerator[Wire]:
        """The reply in chunks: for each choice its role, its text, its finish reason; then the usage."""
        for index in range(self._num_choices):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
        async with aclosing(deltas):
            async for index, delta in deltas:
                self.count(index, delta)
                # Tokens that are part of a character have no text yet.
                if delta.text or (delta.tokens and self._request.logprobs):
                    yield self._chunk(index, {"content": delta.text}, tokens=delta.tokens)
                if delta.usage is not None:
                    yield self._chunk(index, {}, finish_reason=delta.finish_reason)
        if self._request.include_usage:
            yield {
                **self.head("chat.completion.chunk"),
                "choices": [],
                "usage": self.usage_body(),
            }

    def _chunk(
        self,
        index: int,
        delta: Wire,
        *,
        tokens: list[GeneratedToken] | None = None,
        finish_reason: str | None = None,
    ) -> Wire:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish_reason,
        }
        chunk = {**self.head("chat.completion.chunk"), "choices": [choice]}
        return {**chunk, **self.chunk_usage(self._request)}

    def _logprobs(self, tokens: list[GeneratedToken]) -> Wire | None:
        if not self._request.logprobs:
            return None
        return {
            "content": [
                {
                    **self._token(token.token_id, entry.logprob, token.text),
                    "top_logprobs": [self._token(*pair) for pair in entry.top],
                }
                for token in tokens
                if (entry := token.logprob) is not None
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float, text: str | None = None) -> Wire:
        """`text` is what the token added to the reply, if that is known."""
        added = self._vocabulary.bytes_of(token_id) if text is None else text.encode()
        return {
            "token": self._vocabulary.text_of(token_id),
            "logprob": logprob,
            "bytes": list(added),
        }
