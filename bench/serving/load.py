"""What is asked of a served base, and how it is measured.

Prompts are of random tokens, so that nothing is reused; no reply ends before it has all its tokens.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from modeling.artifacts import lora
from serving.adapters.ref import AdapterRef
from serving.engine.kv.prefix import KvPrefix
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from serving.served_base import ServedBase

NUM_REQUESTS = 16
"""At once."""
PROMPT_TOKENS = 64
NEW_TOKENS = 64
PREFILL_TOKENS = 1024
SHARED_PREFIX_TOKENS = 700
NUM_SHARING = 60
SHARING_PROMPT_TOKENS = 50
SHARING_NEW_TOKENS = 32
FIRST_PLAIN_TOKEN = 1000
NUM_COLD = 5

OnTop = Adapter | KvPrefix | None
_seeds = itertools.count()


class Load:
    """Requests to a base."""

    def __init__(self, served: ServedBase) -> None:
        self._served = served

    async def loaded(self, ref: AdapterRef) -> OnTop:
        found = await self._served.find(ref.id, sha256=ref.sha256, size_bytes=ref.size_bytes)
        return found.adapter

    async def together(self, adapters: Sequence[OnTop]) -> None:
        """16 requests at once, given to the adapters in turn."""
        on_top = [adapters[i % len(adapters)] if adapters else None for i in range(NUM_REQUESTS)]
        await asyncio.gather(*(self._finish(NEW_TOKENS, adapter) for adapter in on_top))

    async def one_behind_the_other(self, adapters: Sequence[OnTop]) -> None:
        """Two requests to each adapter, which come one behind the other; 16 of all are under way at a time."""
        waiting = iter([adapter for adapter in adapters for _ in range(2)])

        async def ask() -> None:
            for adapter in waiting:
                await self._finish(NEW_TOKENS, adapter)

        await asyncio.gather(*(ask() for _ in range(NUM_REQUESTS)))

    async def stream_s(self) -> float:
        """Seconds between two tokens of a single reply, in the median."""
        arrivals_s: list[float] = []
        await self._listen(arrivals_s, NEW_TOKENS)
        return statistics.median(b - a for a, b in itertools.pairwise(arrivals_s))

    async def prefill(self) -> None:
        """Read a single long prompt."""
        await self._finish(1, prompt=_prompt(PREFILL_TOKENS))

    async def share_prefix(self) -> None:
        """The 60 requests of a few-shot evaluation, sent all at once."""
        prefix = _prompt(SHARED_PREFIX_TOKENS)
        prompts = [[*prefix, *_prompt(SHARING_PROMPT_TOKENS)] for _ in range(NUM_SHARING)]
        await asyncio.gather(*(self._finish(SHARING_NEW_TOKENS, prompt=p) for p in prompts))

    async def come_cold(self, refs: Sequence[AdapterRef]) -> dict[str, object]:
        """Adapters that come out of the blob store while others generate: their first tokens, and the first ones of
        the same adapters once they are warm; and the longest gap between two tokens of those others, in
        medians of their gaps."""
        found = [await self._come_cold(ref) for ref in refs]
        return {what: round(statistics.median(one[what] for one in found), 3) for what in found[0]}

    async def _come_cold(self, ref: AdapterRef) -> dict[str, float]:
        arrivals_s: list[float] = []

        async def first_token_s() -> float:
            began_s = time.perf_counter()
            adapter = await self.loaded(ref)
            await self._finish(1, adapter, prompt=_prompt(8))
            return time.perf_counter() - began_s

        others = asyncio.create_task(self._listen(arrivals_s, 400))
        try:
            await _until(arrivals_s, 20)
            num_before = len(arrivals_s)
            cold_s = await first_token_s()
            num_then = len(arrivals_s)
            await _until(arrivals_s, num_then + 2)
            gaps_s = [b - a for a, b in itertools.pairwise(arrivals_s)]
            warm_s = await first_token_s()
        finally:
            others.cancel()
        usual_s = statistics.median(gaps_s[: num_before - 1])
        return {
            "cold first token, s": cold_s,
            "warm first token, s": warm_s,
            "cold after warm, ms": (cold_s - warm_s) * 1e3,
            "longest gap of others, medians": max(gaps_s[num_before - 1 :]) / usual_s,
        }

    @property
    def weight_bytes(self) -> int:
        """What has to be read for a token: each linear layer's weights once, the head's included."""
        model = self._served.engine.model
        shapes = [*lora.linear_shapes(model.config).values()]
        shapes.append((model.config.vocab_size, model.config.hidden_size))
        return sum(num_out * num_in for num_out, num_in in shapes) * model.dtype.itemsize

    async def _finish(
        self, num_tokens: int, adapter: OnTop = None, prompt: list[int] | None = None
    ) -> None:
        request = self._request(prompt or _prompt(PROMPT_TOKENS), num_tokens, adapter)
        async for _ in self._served.thread.generate([request]):
            pass

    async def _listen(self, arrivals_s: list[float], num_tokens: int) -> None:
        request = self._request(_prompt(PROMPT_TOKENS), num_tokens)
        async for _, delta in self._served.thread.generate([request]):
            if delta.tokens:
                arrivals_s.append(time.perf_counter())

    def _request(self, prompt: list[int], num_tokens: int, adapter: OnTop = None) -> Generate:
        never_ends = dict.fromkeys(self._served.tokenizer.eos_ids, -100.0)
        return Generate(
            prompt=prompt,
            max_tokens=num_tokens,
            adapter=adapter,
            sampling=replace(SamplingParams(temperature=0.0), logit_bias=never_ends),
            cache_salt="bench",
        )


async def _until(arrivals_s: list[float], number: int) -> None:
    while len(arrivals_s) < number:
        await asyncio.sleep(0.002)


def prompts() -> list[list[int]]:
    """Of the requests that come at once."""
    return [_prompt(PROMPT_TOKENS) for _ in range(NUM_REQUESTS)]


def _prompt(num_tokens: int) -> list[int]:
    chance = random.Random(next(_seeds))
    return [chance.randrange(FIRST_PLAIN_TOKEN, 40_000) for _ in range(num_tokens)]
