"""What the replies of both endpoints have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.engine.sequence import Delta, Usage
from storage.ids import new_id

from .requests import GenerationRequest, Wire


class Reply:
    """One reply in the making: its head, and the usage of its choices."""

    def __init__(
        self, *, id_prefix: str, model: str, prompt_lengths: Sequence[int], num_choices: int
    ) -> None:
        """`num_choices` are those of each prompt; lengths are in tokens."""
        self._id = new_id(id_prefix)
        self._model = model
        self._created_at = int(time.time())
        self._num_choices = num_choices
        self._prompt_tokens = sum(prompt_lengths)
        self._usages = [Usage(n, 0, 0) for n in prompt_lengths for _ in range(num_choices)]
        # Sums, because each chunk of a reply of many choices may ask for them.
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._reasoning_tokens = 0
        self._num_unfinished = [num_choices] * len(prompt_lengths)

    def count(self, index: int, delta: Delta) -> None:
        """Keep the usage of choice `index` up to date."""
        before = self._usages[index]
        num_generated = before.completion_tokens + len(delta.tokens)
        # Only the last delta knows of cached tokens, and of generated ones that have no text.
        usage = delta.usage or Usage(before.prompt_tokens, num_generated, 0)
        self._usages[index] = usage
        self._completion_tokens += usage.completion_tokens - before.completion_tokens
        if delta.usage is not None:
            self._finish(index // self._num_choices)

    def _finish(self, prompt: int) -> None:
        """Choices of one prompt are neighbours. The later ones reuse what the first one computed; that is no
        saving to report."""
        self._num_unfinished[prompt] -= 1
        if not self._num_unfinished[prompt]:
            begin = prompt * self._num_choices
            of_prompt = self._usages[begin : begin + self._num_choices]
            self._cached_tokens += min(usage.cached_tokens for usage in of_prompt)

    def head(self, kind: str) -> Wire:
        """The fields that a whole reply and each of its chunks begin with."""
        return {
            "id": self._id,
            "object": kind,
            "created": self._created_at,
            "model": self._model,
            "system_fingerprint": None,
        }

    def usage_body(self) -> Wire:
        """The usage of all choices; the prompt of several counts once."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self._reasoning_tokens,
                "audio_tokens": 0,
            },
        }

    def chunk_usage(self, request: GenerationRequest) -> Wire:
        """What a chunk says about usage besides its choices."""
        if not request.include_usage:
            return {}
        return {"usage": self.usage_body() if request.has_continuous_usage else None}
