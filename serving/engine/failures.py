"""Why the engine does not compute something. `serving.engine_errors` has OpenAI's words for each."""

from __future__ import annotations


class EngineError(Exception):
    """A sequence that is not taken, or that ends before it is done."""


class InvalidPrompt(EngineError):
    """The prompt has no tokens, or some that the model does not have."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(
            f"a prompt has one token at least, and its token ids lie between 0 and {vocab_size - 1}"
        )
        self.vocab_size = vocab_size


class ContextLengthExceeded(EngineError):
    """Prompt and reply do not fit the model's context."""

    def __init__(self, num_prompt_tokens: int, max_tokens: int | None, max_seq_len: int) -> None:
        super().__init__(
            f"{num_prompt_tokens} tokens of prompt and {max_tokens or 0} of reply do not fit a "
            f"context of {max_seq_len}"
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
        self.max_seq_len = max_seq_len


class NotFinite(EngineError):
    """The model's weights are so large that its output is no longer made of numbers."""

    def __init__(self) -> None:
        super().__init__("the model's output is not finite")


class ConstraintFailed(EngineError):
    """A grammar turned out too complex while it was followed. It ends the choice alone."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the grammar could not be followed: {reason}")
        self.reason = reason


class ModelGone(EngineError):
    """The model that computes the sequence is not to be used any more."""

    def __init__(self) -> None:
        super().__init__("the model was deleted")


class SequenceFailed(EngineError):
    """Something broke while the sequence was computed; what, the log says."""

    def __init__(self) -> None:
        super().__init__("the sequence could not be computed")


class EngineStopped(EngineError):
    """Nobody drives the engine any more: it was closed, or everything failed in it."""

    def __init__(self, *, has_failed: bool) -> None:
        super().__init__("the engine failed" if has_failed else "the engine was closed")
        self.has_failed = has_failed
