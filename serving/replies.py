"""What the replies of both endpoints have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence

from storage.ids import new_id

from .requests import GenerationRequest, Wire
from .sequence import Delta, Usage


class Reply:
    """One reply in the making: its head, and the usage of its choices."""

    def __init__(
        self, *, id_prefix: str, model: str, prompt_lengths: Sequence[int], num_choices: int
    ) -> None:
        """`num_choices` are those of each prompt; lengths are in tokens."""
        self._id = new_id(id_prefix)
        self._model = model
        self._created_at = int(time.time())
        self._num_prompts = len(prompt_lengths)
        self.usages = [Usage(n, 0, 0) for n in prompt_lengths for _ in range(num_choices)]

    def count(self, index: int, delta: Delta) -> None:
        """Keep the usage of choice `index` up to date."""
        before = self.usages[index]
        num_generated = before.completion_tokens + len(delta.tokens)
        # Only the last delta knows of cached tokens, and of generated ones that have no text.
        self.usages[index] = delta.usage or Usage(before.prompt_tokens, num_generated, 0)

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
        """Of all choices. Choices of one prompt are neighbours, and their prompt counts once."""
        n = len(self.usages) // self._num_prompts
        by_prompt = [self.usages[i : i + n] for i in range(0, len(self.usages), n)]
        prompt_tokens = sum(usages[0].prompt_tokens for usages in by_prompt)
        # Later choices reuse what the first one computed; that is no saving to report.
        cached_tokens = sum(min(u.cached_tokens for u in usages) for usages in by_prompt)
        completion_tokens = sum(usage.completion_tokens for usage in self.usages)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }

    def chunk_usage(self, request: GenerationRequest) -> Wire:
        """What a chunk says about usage besides its choices."""
        if not request.include_usage:
            return {}
        return {"usage": self.usage_body() if request.has_continuous_usage else None}
