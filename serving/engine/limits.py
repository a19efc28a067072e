"""What one engine takes on. Needs no torch, so that who only reads settings does not load it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of sequences, tokens and time."""

    max_running: int = 64
    """Sequences in one batch."""
    step_tokens: int = 256
    """Tokens computed in one step."""
    shared_tokens: int = 12
    """Of a step that one project leads, what all the others together get, a token each at least. A step of
    so many single tokens takes a processor about twice as long as a step of one."""
    shared_step_s: float = 0.25
    """So long a step of prompts should take at most where several projects come. On two cores steps of 0.1 s read
    prompts 40 % slower than steps of 256 tokens do, and steps of 0.25 s 10 to 15 %."""
    drain_after_s: float = 2.0
    """Once a sequence has waited this long for a slot, nobody who needs one is admitted before it."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_running <= self.step_tokens:
            raise ValueError("a step must have a token for each running sequence")
