"""Sequences of several projects on one scheduler, with all of serving real but the model's steps."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from serving.engine.kv.cache import KvCache
from serving.engine.kv.pool import PAGE_TOKENS, KvPool
from serving.engine.limits import Limits
from serving.engine.schedule import Scheduler, Work
from serving.engine.sequence import Generate, Sequence
from serving.engine.slots.lora import Adapter, AdapterSlots
from serving.engine.tier_counts import TierCounts
from tests.serving.parts import one_step
from text.tokenizer import Tokenizer

CONFIG = LlamaConfig(
    hidden_size=2, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1
)


class Slots(AdapterSlots):
    """Slots without layers."""

    def __init__(self, num_slots: int) -> None:
        self._layers = {}
        self._num_users = [0] * num_slots
        self._adapters = [None] * num_slots
        self._order = list(range(num_slots))
        self.num_slots = num_slots
        self.budget_bytes = None
        self.counts = TierCounts()


class Load:
    """Sequences of several projects on one scheduler."""

    def __init__(
        self, tokenizer: Tokenizer, *, num_pages: int = 100, limits: Limits | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.now_s = 0.0
        pool = KvPool(
            CONFIG,
            size_bytes=num_pages * PAGE_TOKENS * 16,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        self.max_seq_len = min(2048, pool.num_tokens)
        self.scheduler = Scheduler(
            KvCache(pool),
            Slots(2),
            limits or Limits(),
            max_seq_len=self.max_seq_len,
            clock=lambda: self.now_s,
        )

    def add(
        self,
        project: str,
        prompt: list[int],
        *,
        max_tokens: int = 8,
        adapter_id: str | None = None,
        weight: int = 1,
    ) -> Sequence:
        adapter = None if adapter_id is None else Adapter(adapter_id, {})
        request = Generate(prompt=prompt, adapter=adapter, cache_salt=project)
        sequence = Sequence(request, max_tokens, self.tokenizer, lambda _: None)
        sequence.weight = weight
        self.scheduler.places.add(sequence)
        return sequence

    def step(self) -> list[Work]:
        return one_step(self.scheduler)

    def timed_step(self, token_s: float) -> int:
        """A step on a machine that takes so long for each token; gives the number of its tokens."""
        num_tokens = sum(w.chunk.end - w.chunk.start for w in self.step())
        self.now_s += num_tokens * token_s
        self.scheduler.note_step(num_tokens, num_tokens * token_s)
        return num_tokens

    def run(self, max_steps: int) -> int:
        """Steps until all is done; fails beyond `max_steps`."""
        for num_steps in range(max_steps):
            if not self.scheduler.places.all_sequences():
                return num_steps
            self.step()
        raise AssertionError(f"{len(self.scheduler.places.all_sequences())} sequences never end")


def num_tokens(work: list[Work], project: str) -> int:
    return sum(w.chunk.end - w.chunk.start for w in work if w.sequence.project == project)
