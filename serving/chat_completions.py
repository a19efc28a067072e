"""POST /v1/chat/completions: the wire types, and deltas turned into choices."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from pydantic import Field

from modeling.chat_template import ChatTemplate, InvalidMessages
from storage.errors import InvalidRequest

from .replies import Reply, Wire
from .requests import GenerationRequest, UnsupportedParameter
from .sequence import Delta
from .text import GeneratedToken
from .vocabulary import Vocabulary

# What would change the reply in ways that this server cannot.
UNSUPPORTED = (
    "tools",
    "functions",
    "function_call",
    "audio",
    "prediction",
    "web_search_options",
)


class ChatCompletionRequest(GenerationRequest):
    messages: list[Wire]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Wire | None = None
    tool_choice: str | Wire | None = None
    modalities: list[str] | None = None

    def check_supported(self) -> None:
        """Raises `UnsupportedParameter` for what would be ignored to the user's harm."""
        self.refuse(UNSUPPORTED)
        if self.tool_choice not in (None, "none", "auto"):
            raise UnsupportedParameter("tool_choice")
        if self.modalities not in (None, ["text"]):
            raise UnsupportedParameter("modalities", " Only ['text'] is.")
        if self.response_format is not None and self.response_format.get("type") != "text":
            raise UnsupportedParameter("response_format", " Only {'type': 'text'} is.")

    @property
    def max_new_tokens(self) -> int | None:
        """None: as many as the context holds."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Raises `InvalidRequest` for `top_logprobs` without `logprobs`."""
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidRequest(
                "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
                param="top_logprobs",
            )
        return None

    def prompt(self, template: ChatTemplate) -> list[int]:
        """The token ids of the prompt. Raises `InvalidRequest`."""
        if not self.messages:
            raise InvalidRequest(
                "Invalid 'messages': empty array. Expected an array with minimum length 1, "
                "but got an empty array instead.",
                param="messages",
                code="empty_array",
            )
        try:
            return template.render(self.messages, add_generation_prompt=True)
        except InvalidMessages as error:
            raise InvalidRequest(f"Invalid 'messages': {error}", param="messages") from error


class ChatCompletion(Reply):
    """A reply to a chat, streamed or whole."""

    def __init__(self, request: ChatCompletionRequest, vocabulary: Vocabulary) -> None:
        self._num_choices = request.n or 1
        super().__init__(id_prefix="chatcmpl-", model=request.model, num_choices=self._num_choices)
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
            if delta.usage is not None:
                finish_reasons[index] = delta.finish_reason
                self.usages[index] = delta.usage
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
                # Tokens that are part of a character have no text yet.
                if delta.text or (delta.tokens and self._request.logprobs):
                    yield self._chunk(index, {"content": delta.text}, tokens=delta.tokens)
                if delta.usage is not None:
                    yield self._chunk(index, {}, finish_reason=delta.finish_reason)
                    self.usages[index] = delta.usage
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
        return {**chunk, "usage": None} if self._request.include_usage else chunk

    def _logprobs(self, tokens: list[GeneratedToken]) -> Wire | None:
        if not self._request.logprobs:
            return None
        entries = [token.logprob for token in tokens if token.logprob is not None]
        return {
            "content": [
                {
                    **self._token(entry.token_id, entry.logprob),
                    "top_logprobs": [self._token(*pair) for pair in entry.top],
                }
                for entry in entries
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float) -> Wire:
        return {
            "token": self._vocabulary.text_of(token_id),
            "logprob": logprob,
            "bytes": list(self._vocabulary.bytes_of(token_id)),
        }
