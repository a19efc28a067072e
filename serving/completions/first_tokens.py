"""Log-probabilities of prompts' first tokens: those that they would have after an empty prompt.

Nothing stands before a prompt's first token that could predict it. OpenAI's API says null there, which
its own client's types do not allow; what the model expects at the start of a document says more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serving.engine.kv.prefix import KvPrefix
from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from serving.engine_thread import EngineThread


async def first_tokens(
    thread: EngineThread,
    token_ids: Iterable[int],
    *,
    start_id: int | None,
    num_top: int,
    adapter: Adapter | KvPrefix | None,
    cache_salt: str,
) -> Mapping[int, TokenLogprob]:
    """By token id. `start_id` begins a document; it has no entry itself, and None gives none at all.

    Raises what `EngineThread.generate` raises.
    """
    if start_id is None:
        return {}
    wanted = sorted(set(token_ids) - {start_id})
    requests = [
        Generate(
            prompt=[start_id, token_id],
            max_tokens=0,
            adapter=adapter,
            cache_salt=cache_salt,
            num_prompt_logprobs=num_top,
        )
        for token_id in wanted
    ]
    found = {}
    async for index, delta in thread.generate(requests):
        if delta.prompt_logprobs is not None and delta.prompt_logprobs[1] is not None:
            found[wanted[index]] = delta.prompt_logprobs[1]
    return found
