"""The body of POST /v1/chat/completions: what may be asked for, and what is refused."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from foundation.errors import InvalidRequest
from serving.grammars.request import ConstrainedRequest
from serving.requests import (
    Flag,
    NumTokens,
    Text,
    TextTooLong,
    UnsupportedParameter,
    Whole,
    Wire,
    is_object,
    is_text,
    one_of,
)
from text.chat_template import ChatTemplate
from text.messages import InvalidMessages

from .constraint import HeldReply
from .tools import MAX_TOOLS, Choice, Function, Offer, Tool, legacy_offer_of, offer_of

SPEAKERS = frozenset({"system", "developer", "user", "tool"})
"""Who has nothing to say but content: an assistant may call a tool, or refuse."""

Words = Annotated[str, Field(strict=True, max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class Audio(_Part):
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]
    voice: Annotated[str | Wire, one_of("a string or an object", is_text, is_object)]


class Prediction(_Part):
    type: Literal["content"]
    content: Annotated[
        str | list[Wire],
        one_of("a string or an array", is_text, lambda value: isinstance(value, list)),
    ]


class WebSearchOptions(_Part):
    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: Wire | None = None


class Moderation(_Part):
    model: Text
    policy: Wire | None = None


class ChatCompletionRequest(ConstrainedRequest):
    messages: Annotated[list[Wire], Field(min_length=1, fail_fast=True)]
    max_tokens: NumTokens | None = None
    max_completion_tokens: NumTokens | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: Flag | None = None
    functions: Annotated[list[Function], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    function_call: Choice | None = None
    modalities: Annotated[list[Literal["text", "audio"]], Field(fail_fast=True)] | None = None
    audio: Audio | None = None
    web_search_options: WebSearchOptions | None = None
    moderation: Moderation | None = None
    # Hints: how fast, how long, under which name. Without them the reply would be as good.
    prediction: Prediction | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    verbosity: Literal["low", "medium", "high"] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    safety_identifier: Words | None = None
    prompt_cache_key: Words | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: Wire | None = None

    def check_supported(self) -> None:
        """Raises `InvalidRequest` for what would be ignored to the user's harm.

        Where no token is to be generated, nothing can be: such a request is answered whatever it asks
        of the tokens.
        """
        _ = self.offer
        if self.max_new_tokens == 0:
            return
        for param, is_asked, why in (
            ("modalities", "audio" in (self.modalities or ()), " Only ['text'] is."),
            ("web_search_options", self.web_search_options, ""),
            ("moderation", self.moderation, ""),
        ):
            if is_asked:
                raise UnsupportedParameter(param, why)

    @cached_property
    def offer(self) -> Offer:
        """The tools that the model may call. Raises `InvalidRequest`."""
        offer = offer_of(self.tools, self.tool_choice, is_parallel=self.parallel_tool_calls)
        legacy = legacy_offer_of(self.functions, self.function_call)
        if offer.tools and legacy.tools:
            raise InvalidRequest(
                "Invalid value for 'functions': 'functions' and 'tools' cannot both be specified.",
                param="functions",
            )
        return legacy if legacy.tools else offer

    def read(
        self, of_base: ChatTemplate, *, max_seq_len: int
    ) -> tuple[list[int], HeldReply, frozenset[int]]:
        """The prompt, what the reply is held to, and the special tokens that are text. Raises `InvalidRequest`."""
        # Some templates can have a model answer without a thought.
        template = of_base.without_thoughts if self.reasoning_effort == "none" else of_base
        prompt = self.prompt(template, max_seq_len=max_seq_len)
        return prompt, self.held_reply(template), self.shown_ids(template)

    def held_reply(self, template: ChatTemplate) -> HeldReply:
        """What the reply is held to, if it has any tokens. Raises `InvalidRequest`."""
        if self.max_new_tokens == 0:
            return HeldReply(Offer(), template.dialect, None)
        return HeldReply.of(self.offer, template.dialect, self.grammar_source)

    def shown_ids(self, template: ChatTemplate) -> frozenset[int]:
        """The special tokens that are part of the text, to be read there or to be shown."""
        if self.shows_special:
            return template.tokenizer.special_ids
        return template.dialect.read_ids(with_calls=bool(self.offer.callable_names))

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

    def prompt(self, template: ChatTemplate, *, max_seq_len: int) -> list[int]:
        """The token ids of the prompt. Raises `InvalidRequest`, for what cannot fit before it is rendered."""
        for index, message in enumerate(self.messages):
            _check_content(message, f"messages[{index}].content")
        max_token_chars = template.tokenizer.max_token_chars
        # A message takes a token at least, for the template says whose it is.
        num_chars = sum(max(_num_chars(m), max_token_chars) for m in self.messages)
        if num_chars > max_seq_len * max_token_chars:
            raise TextTooLong(sum(map(_num_chars, self.messages)), max_seq_len, max_token_chars)
        try:
            return template.render(
                self.messages, tools=self.offer.definitions, add_generation_prompt=True
            )
        except InvalidMessages as error:
            raise InvalidRequest(f"Invalid 'messages': {error}", param=error.param) from error


def _check_content(message: Wire, where: str) -> None:
    """Raises `InvalidRequest` where the text is missing, which would be read as an empty one."""
    role = message.get("role")
    if not isinstance(role, str) or role not in SPEAKERS or message.get("content") is not None:
        return
    if "content" not in message:
        raise InvalidRequest(
            f"Missing required parameter: '{where}'.",
            param=where,
            code="missing_required_parameter",
        )
    raise InvalidRequest(
        f"Invalid type for '{where}': expected one of a string or array of objects, but got null "
        "instead.",
        param=where,
        code="invalid_type",
    )


def _num_chars(message: Wire) -> int:
    """How many characters the text has that every template shows."""
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return sum(len(text) for text in texts if isinstance(text, str))
