from __future__ import annotations

import pytest

from serving.engine.failures import (
    ConstraintFailed,
    ContextLengthExceeded,
    EngineError,
    EngineStopped,
    InvalidPrompt,
    NotFinite,
    SequenceFailed,
)
from serving.engine_errors import in_openais_words


@pytest.mark.parametrize(
    ("error", "status", "type", "param", "code", "words"),
    [
        (InvalidPrompt(259), 400, "invalid_request_error", "prompt", None, "between 0 and 258"),
        (ContextLengthExceeded(60, 5, 64), 400, "invalid_request_error", "messages",
         "context_length_exceeded", "you requested 65 tokens (60 in the messages, 5 in the completion)"),
        (ContextLengthExceeded(64, None, 64), 400, "invalid_request_error", "messages",
         "context_length_exceeded", "maximum context length is 64 tokens. However, you requested 64 tokens (64 in the messages)"),
        (ConstraintFailed("too many states"), 400, "invalid_request_error", None, "grammar_too_complex",
         "held to its schema or grammar: too many states. Please make it simpler."),
        (NotFinite(), 500, "server_error", None, "model_output_not_finite", "not finite"),
        (SequenceFailed(), 500, "server_error", None, None, "failed at this request"),
        (EngineStopped(has_failed=True), 500, "server_error", None, None, "is being restarted"),
        (EngineStopped(has_failed=False), 503, "server_error", None, None, "is shutting down"),
    ],
)  # fmt: skip
def test_each_error_of_the_engine_has_a_status_and_words_of_openais(
    error: EngineError, status: int, type: str, param: str | None, code: str | None, words: str
) -> None:
    said = in_openais_words(error)
    assert (said.status, said.type, said.param, said.code) == (status, type, param, code)
    assert words in said.message
