"""What requests for chat and for text completions have in common on the wire."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, StrictBool
from pydantic_core import PydanticCustomError, PydanticKnownError

from foundation.errors import InvalidRequest
from foundation.invalid_parameters import MAX_PROPERTIES
from serving.engine.sampling import SamplingParams

MAX_STOP = 4
MAX_STOP_CHARS = 500
SEED_RANGE = (-(2**63), 2**63 - 1)

Wire = dict[str, Any]


class UnsupportedParameter(InvalidRequest):
    """The request asks for something that this server does not do."""

    def __init__(self, param: str, why: str = "") -> None:
        super().__init__(
            f"Unsupported parameter: '{param}' is not supported with this model.{why}",
            param=param,
            code="unsupported_parameter",
        )


class TextTooLong(InvalidRequest):
    """Refused by its length, before it is tokenised."""

    def __init__(self, num_chars: int, max_seq_len: int, max_token_chars: int) -> None:
        super().__init__(
            f"This model's maximum context length is {max_seq_len} tokens, and none of its tokens stands for "
            f"more than {max_token_chars} characters. However, your messages have {num_chars} characters. "
            "Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )


def one_of(expected: str, *fits: Callable[[Any], bool]) -> PlainValidator:
    """One error for a value that fits none of several types, where pydantic would give one for each, and
    for an array one for each entry."""

    def check(value: Any) -> Any:
        if value is None or any(fit(value) for fit in fits):
            return value
        raise PydanticCustomError("no_such_type", "expected {expected}.", {"expected": expected})

    return PlainValidator(check)


def at_most(num_entries: int) -> BeforeValidator:
    """One error for an object with more entries, before any of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > num_entries:
            raise PydanticKnownError(
                "too_long",
                {"field_type": "Object", "max_length": num_entries, "actual_length": len(value)},
            )
        return value

    return BeforeValidator(check)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# JSON's types as they are: "7" is no number and 1 no boolean.
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = StrictBool
Text = Annotated[str, Field(strict=True)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=64, pattern=r"^[\w-]+$")]
"""Of a function or a schema."""
Penalty = Annotated[Number, Field(ge=-2, le=2)]
NumTokens = Annotated[Whole, Field(ge=0)]
Stop = Annotated[str | list[str], one_of("a string or an array of strings", is_text, are_texts)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: Flag | None = None
    include_obfuscation: Flag | None = None
    """Accepted; nothing is added to the chunks."""
    continuous_usage_stats: Flag | None = None
    """With `include_usage`: each chunk tells what was used up to it, as vLLM has it."""


class GenerationRequest(BaseModel):
    """OpenAI's names and ranges. Fields that are not known are accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    model: Text
    n: Annotated[Whole, Field(ge=1, le=128)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[Number, Field(ge=-100, le=100)]], at_most(MAX_PROPERTIES)]
        | None
    ) = None
    seed: Annotated[Whole, Field(ge=SEED_RANGE[0], le=SEED_RANGE[1])] | None = None
    stop: Stop | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def has_continuous_usage(self) -> bool:
        options = self.stream_options
        return bool(options and options.include_usage and options.continuous_usage_stats)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Raises `InvalidRequest` for more than OpenAI allows."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > MAX_STOP:
            raise InvalidRequest(
                f"Invalid 'stop': array too long. Expected at most {MAX_STOP} entries.",
                param="stop",
                code="array_above_max_length",
            )
        if any(len(s) > MAX_STOP_CHARS for s in stop):
            raise InvalidRequest(
                f"Invalid 'stop': string too long. Expected at most {MAX_STOP_CHARS} characters.",
                param="stop",
                code="string_above_max_length",
            )
        return tuple(s for s in stop if s)

    def sampling(
        self, *, num_choices: int, vocab_size: int, num_logprobs: int | None
    ) -> list[SamplingParams]:
        """The parameters of each choice. Raises `InvalidRequest`."""
        seed = self.seed if self.seed is not None else secrets.randbits(62)
        bias = self._logit_bias(vocab_size)
        return [
            SamplingParams(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                presence_penalty=self.presence_penalty or 0.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                logit_bias=bias,
                seed=seed,
                choice=choice,
                num_logprobs=num_logprobs,
            )
            for choice in range(num_choices)
        ]

    def _logit_bias(self, vocab_size: int) -> dict[int, float]:
        bias = {}
        for token, value in (self.logit_bias or {}).items():
            # A bias of nothing changes nothing, whatever it is for.
            if value == 0:
                continue
            is_number = token.isascii() and token.isdecimal() and len(token) <= 20
            if not is_number or int(token) >= vocab_size:
                raise InvalidRequest(
                    f"Invalid key in 'logit_bias': {token}. Expected a token id below {vocab_size}.",
                    param="logit_bias",
                    code="invalid_value",
                )
            bias[int(token)] = value
        return bias
