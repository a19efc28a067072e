"""How many tokens a step may have, so that it is short when somebody else may come in the middle of it.

Who comes waits for the step in progress. Alone, a project gets steps of as many tokens as there may be, which
is the fastest; once others have been seen, the tokens of prompts are as many as take a given time.
"""

from __future__ import annotations

from collections.abc import Callable, Set

SHARED_FOR_S = 10.0
"""Who asks again and again comes back within so long. Whoever comes after a longer pause waits for one whole
step at most, and to keep steps short for longer would slow down prompts for nobody's good."""
MIN_PROMPT_TOKENS = 32
"""Shorter pieces cost more than they save. Shorter steps say nothing of a prompt's tokens, either."""
WEIGHT = 0.25
"""Of the latest step in the moving average."""


class StepBudget:
    def __init__(self, step_tokens: int, shared_step_s: float, clock: Callable[[], float]) -> None:
        self._step_tokens = step_tokens
        self._shared_step_s = shared_step_s
        self._clock = clock
        self._token_s: float | None = None
        """Seconds that a token takes in a step of many."""
        self._last_project = ""
        self._shared_until_s: float | None = None

    def see(self, projects: Set[str]) -> None:
        """Those with sequences now. The empty name is nobody's: the server warms up by it."""
        named = projects - {""}
        if len(named | {self._last_project} - {""}) > 1:
            self._shared_until_s = self._clock() + SHARED_FOR_S
        self._last_project = min(named, default=self._last_project)

    def note(self, num_tokens: int, took_s: float) -> None:
        """A step was done."""
        if num_tokens < MIN_PROMPT_TOKENS:
            return
        token_s = took_s / num_tokens
        last_s = token_s if self._token_s is None else self._token_s
        self._token_s = last_s + WEIGHT * (token_s - last_s)

    def tokens(self, num_running: int) -> int:
        """Of the coming step: beside a token for each running sequence, so many of prompts as it has time for."""
        if not self._is_shared:
            return self._step_tokens
        num_timely = int(self._shared_step_s / self._token_s) if self._token_s else 0
        return min(self._step_tokens, num_running + max(MIN_PROMPT_TOKENS, num_timely))

    @property
    def _is_shared(self) -> bool:
        return self._shared_until_s is not None and self._clock() < self._shared_until_s
