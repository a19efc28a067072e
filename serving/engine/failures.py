"""Why the engine does not compute something, in the words that users read."""

from __future__ import annotations

from foundation.errors import InvalidRequest, LuthierError, Unavailable


class ContextLengthExceeded(InvalidRequest):
    """Prompt and reply do not fit the model's context."""

    def __init__(self, num_prompt_tokens: int, max_tokens: int | None, max_seq_len: int) -> None:
        wanted = (
            f"{num_prompt_tokens} in the messages, {max_tokens} in the completion"
            if max_tokens is not None
            else f"{num_prompt_tokens} in the messages"
        )
        super().__init__(
            f"This model's maximum context length is {max_seq_len} tokens. However, you requested "
            f"{num_prompt_tokens + (max_tokens or 0)} tokens ({wanted}). "
            "Please reduce the length of the messages or completion.",
            param="messages",
            code="context_length_exceeded",
        )


class NotFinite(LuthierError):
    """The model's weights are so large that its output is no longer made of numbers."""

    def __init__(self) -> None:
        super().__init__(
            "The model's output is not finite: its weights are too large to compute with. If it is a "
            "fine-tuned model, train it again with a lower learning rate multiplier.",
            code="model_output_not_finite",
        )


class EngineStopped(Unavailable):
    """The engine's thread has ended, by an error or because it was closed."""


class Overloaded(LuthierError):
    """More requests are waiting than the engine takes."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=429, type="requests", code="rate_limit_exceeded")
