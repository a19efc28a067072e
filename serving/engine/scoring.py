"""Log-probabilities of prompts' first tokens: those that they would have after an empty prompt.

Nothing stands before a prompt's first token that could predict it. OpenAI's API says null there, which
its own client's types do not allow; what the model expects at the start of a document says more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from serving.engine.slots.lora import Adapter

from .engine import Engine
from .sampling import TokenLogprob
from .sequence import Generate


async def first_tokens(
    engine: Engine,
    token_ids: Iterable[int],
    *,
    start_id: int | None,
    num_top: int,
    adapter: Adapter | None,
    cache_salt: str,
) -> Mapping[int, TokenLogprob]:
    """By token id. `start_id` begins a document; it has no entry itself, and None gives none at all.

    Raises what `Engine.generate` raises.
    """
    if start_id is None:
        return {}

    async def score(token_id: int) -> TokenLogprob | None:
        request = Generate(
            prompt=[start_id, token_id],
            max_tokens=0,
            adapter=adapter,
            cache_salt=cache_salt,
            num_prompt_logprobs=num_top,
        )
        entries = [
            delta.prompt_logprobs[1]
            async for delta in engine.generate(request)
            if delta.prompt_logprobs is not None
        ]
        return entries[0]

    wanted = sorted(set(token_ids) - {start_id})
    found = await asyncio.gather(*map(score, wanted))
    return {i: entry for i, entry in zip(wanted, found, strict=True) if entry is not None}
