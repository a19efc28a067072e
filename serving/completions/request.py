"""The body of POST /v1/completions: what may be asked for, and its prompts as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from foundation.errors import InvalidRequest
from serving.engine.failures import ContextLengthExceeded
from serving.grammars.request import ConstrainedRequest
from serving.requests import (
    Flag,
    NumTokens,
    Text,
    TextTooLong,
    Whole,
    are_texts,
    is_text,
    one_of,
)
from text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 2048
SUFFIX_STOP_CHARS = 100
"""So much of a suffix says that the text has arrived at it."""


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _are_lists_of_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_are_ids(item) for item in value)


GivenPrompt = Annotated[
    str | list[int] | list[str] | list[list[int]],
    one_of(
        "a string, an array of strings, an array of token ids or an array of such arrays",
        is_text,
        are_texts,
        _are_ids,
        _are_lists_of_ids,
    ),
]


@dataclass(frozen=True)
class Prompt:
    token_ids: list[int]
    text: str
    shows_special: bool = False
    """Special tokens are part of the text, as they are written."""


class CompletionRequest(ConstrainedRequest):
    prompt: GivenPrompt
    max_tokens: NumTokens | None = None
    best_of: Annotated[Whole, Field(ge=0, le=20)] | None = None
    echo: Flag | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=5)] | None = None
    suffix: Text | None = None
    """The reply ends where it arrives at the suffix. The model, which has not learnt to fill gaps, does
    not see it."""

    def check_supported(self) -> None:
        """Raises `InvalidRequest` for a `best_of` that does not go with the other parameters."""
        if self.best_of and self.best_of < self.num_choices:
            raise InvalidRequest(
                f"Invalid 'best_of': expected a value of at least 'n' ({self.num_choices}), but got "
                f"{self.best_of} instead.",
                param="best_of",
                code="invalid_value",
            )
        if self.stream and self.num_candidates > self.num_choices:
            raise InvalidRequest(
                "Invalid 'best_of': the best of several completions cannot be streamed.",
                param="best_of",
                code="invalid_value",
            )

    @property
    def num_choices(self) -> int:
        """How many completions each prompt gets."""
        return self.n or 1

    @property
    def num_candidates(self) -> int:
        """What is generated for each prompt, to take the best of."""
        return max(self.best_of or 1, self.num_choices)

    @property
    def num_logprobs(self) -> int | None:
        """As in `SamplingParams`; candidates are compared by them."""
        if self.logprobs is None and self.num_candidates > self.num_choices:
            return 0
        return self.logprobs

    @property
    def stop_strings(self) -> tuple[str, ...]:
        stop = super().stop_strings
        return (*stop, self.suffix[:SUFFIX_STOP_CHARS]) if self.suffix else stop

    @property
    def max_new_tokens(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.logprobs if self.echo else None

    @property
    def given_prompts(self) -> list[str | list[int]]:
        """One prompt or several. Raises `InvalidRequest`."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if given and isinstance(given[0], int):
            return [[i for i in given if isinstance(i, int)]]
        if not given or len(given) > MAX_PROMPTS:
            raise InvalidRequest(
                f"Invalid 'prompt': expected 1 to {MAX_PROMPTS} prompts.", param="prompt"
            )
        return [one for one in given if not isinstance(one, int)]


def encode_prompt(given: str | list[int], tokenizer: Tokenizer, *, max_seq_len: int) -> Prompt:
    """A prompt with its text and its ids. Raises `InvalidRequest`, for what cannot fit before it is encoded."""
    if isinstance(given, str):
        if len(given) > max_seq_len * tokenizer.max_token_chars:
            raise TextTooLong(len(given), max_seq_len, tokenizer.max_token_chars)
        return Prompt(tokenizer.encode_prompt(given), given)
    if len(given) > max_seq_len:
        raise ContextLengthExceeded(len(given), None, max_seq_len)
    if not given or min(given) < 0 or max(given) >= tokenizer.vocab_size:
        # The engine says what is wrong with it.
        return Prompt(given, "")
    return Prompt(given, tokenizer.decode(given, skip_special=False), shows_special=True)
