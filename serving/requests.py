"""What requests for chat and for text completions have in common on the wire."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import InvalidRequest

from .sampling import SamplingParams

MAX_STOP = 4
MAX_STOP_CHARS = 500
SEED_RANGE = (-(2**63), 2**63 - 1)


class UnsupportedParameter(InvalidRequest):
    """The request asks for something that this server does not do."""

    def __init__(self, param: str, why: str = "") -> None:
        super().__init__(
            f"Unsupported parameter: '{param}' is not supported with this model.{why}",
            param=param,
            code="unsupported_parameter",
        )


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


class GenerationRequest(BaseModel):
    """OpenAI's names and ranges. Fields that are not known are accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    model: str
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=SEED_RANGE[0], le=SEED_RANGE[1])] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

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

    def refuse(self, params: Iterable[str]) -> None:
        """Raises `UnsupportedParameter` for the first of `params` that asks for anything."""
        given: dict[str, Any] = self.model_extra or {}
        for param in params:
            if given.get(param):
                raise UnsupportedParameter(param)

    def _logit_bias(self, vocab_size: int) -> dict[int, float]:
        bias = {}
        for token, value in (self.logit_bias or {}).items():
            if not token.isdecimal() or int(token) >= vocab_size:
                raise InvalidRequest(
                    f"Invalid key in 'logit_bias': {token}. Expected a token id below {vocab_size}.",
                    param="logit_bias",
                    code="invalid_value",
                )
            bias[int(token)] = value
        return bias
