"""The engine's errors in OpenAI's words, with OpenAI's statuses and codes."""

from __future__ import annotations

from functools import singledispatch

from foundation.errors import InvalidRequest, LuthierError, NotFound, Unavailable

from .engine.failures import (
    ConstraintFailed,
    ContextLengthExceeded,
    EngineError,
    EngineStopped,
    InvalidPrompt,
    ModelGone,
    NotFinite,
)


@singledispatch
def in_openais_words(_: EngineError) -> LuthierError:
    return LuthierError("The inference engine failed at this request. Please try again.")


@in_openais_words.register
def _(error: InvalidPrompt) -> LuthierError:
    return InvalidRequest(
        f"Invalid 'prompt': token ids must lie between 0 and {error.vocab_size - 1}, "
        "and there must be at least one.",
        param="prompt",
    )


@in_openais_words.register
def _(error: ContextLengthExceeded) -> LuthierError:
    wanted = f"{error.num_prompt_tokens} in the messages"
    if error.max_tokens is not None:
        wanted += f", {error.max_tokens} in the completion"
    return InvalidRequest(
        f"This model's maximum context length is {error.max_seq_len} tokens. However, you requested "
        f"{error.num_prompt_tokens + (error.max_tokens or 0)} tokens ({wanted}). "
        "Please reduce the length of the messages or completion.",
        param="messages",
        code="context_length_exceeded",
    )


@in_openais_words.register
def _(error: ConstraintFailed) -> LuthierError:
    return InvalidRequest(
        f"The reply could no longer be held to its schema or grammar: {error.reason}. Please make it simpler.",
        code="grammar_too_complex",
    )


@in_openais_words.register
def _(_error: NotFinite) -> LuthierError:
    return LuthierError(
        "The model's output is not finite: its weights are too large to compute with. If it is a "
        "fine-tuned model, train it again with a lower learning rate multiplier.",
        code="model_output_not_finite",
    )


@in_openais_words.register
def _(_error: ModelGone) -> LuthierError:
    return NotFound(
        "The model was deleted while it was answering.", param="model", code="model_not_found"
    )


@in_openais_words.register
def _(error: EngineStopped) -> LuthierError:
    if error.has_failed:
        return Unavailable("The inference engine failed and is being restarted.", status=500)
    return Unavailable("The inference engine is shutting down.")
