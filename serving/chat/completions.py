"""Replies to POST /v1/chat/completions: deltas turned into choices."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from serving.engine.sequence import Delta
from serving.engine.text import GeneratedToken
from serving.engine.vocabulary import Vocabulary
from serving.replies import Reply
from serving.requests import Wire
from text.tools.dialect import Dialect

from .message import MessageStream
from .request import ChatCompletionRequest


class ChatCompletion(Reply):
    """A reply to a chat, streamed or whole."""

    def __init__(
        self,
        request: ChatCompletionRequest,
        prompt_length: int,
        vocabulary: Vocabulary,
        dialect: Dialect,
        *,
        shows_thoughts: bool = True,
    ) -> None:
        """`shows_thoughts`: the base may think first, if it is one that does."""
        num_choices = request.n or 1
        super().__init__(
            id_prefix="chatcmpl-",
            model=request.model,
            prompt_lengths=[prompt_length],
            num_choices=num_choices,
        )
        self._request = request
        self._vocabulary = vocabulary
        self._messages = [
            MessageStream(request.offer, dialect, shows_thoughts=shows_thoughts)
            for _ in range(num_choices)
        ]

    async def collect(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> Wire:
        """The whole reply."""
        tokens: list[list[GeneratedToken]] = [[] for _ in self._messages]
        finish_reasons: list[str | None] = [None] * len(self._messages)
        async for index, delta in deltas:
            self._read(index, delta)
            tokens[index] += delta.tokens
            finish_reasons[index] = self._messages[index].finish_reason(delta)
        choices = [
            {
                "index": index,
                "message": message.whole(),
                "logprobs": self._logprobs(tokens[index]),
                "finish_reason": finish_reasons[index],
            }
            for index, message in enumerate(self._messages)
        ]
        return {
            **self.head("chat.completion"),
            "choices": choices,
            "usage": self.usage_body(),
        }

    async def stream(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> AsyncGenerator[Wire]:
        """The reply in chunks: for each choice its role, its text, its finish reason; then the usage."""
        for index, message in enumerate(self._messages):
            yield self._chunk(index, message.first())
        async with aclosing(deltas):
            async for index, delta in deltas:
                message = self._messages[index]
                parts = self._read(index, delta)
                tokens = delta.tokens if self._request.logprobs else []
                # Tokens that are part of a character, or of what may become a call, have no text yet.
                for part in parts or ([message.nothing()] if tokens else []):
                    yield self._chunk(index, part, tokens=tokens)
                    tokens = []
                if delta.usage is not None:
                    reason = message.finish_reason(delta)
                    yield self._chunk(index, message.last(), finish_reason=reason)
        if self._request.include_usage:
            yield {
                **self.head("chat.completion.chunk"),
                "choices": [],
                "usage": self.usage_body(),
            }

    def _read(self, index: int, delta: Delta) -> list[Wire]:
        """What choice `index` says in `delta`, as the deltas of its message."""
        message = self._messages[index]
        was_reasoning = message.is_reasoning
        parts = message.push(delta.text, is_last=delta.usage is not None)
        if was_reasoning or message.is_reasoning:
            self._reasoning_tokens += len(delta.tokens)
        self.count(index, delta)
        return parts

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
