"""What a base says of itself: texts drawn from it at temperature 1, half of them answers, half of them from nothing.

A token is a function of (seed, sample, place) and of what the model says, so the same base draws the same texts wherever
that is computed alike. They are drawn once a base and kept.

Dimensions: B samples, T tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from modeling import attention
from text.chat_template import ChatTemplate

VERSION = 1
"""Of what is drawn: other openers, or another way to draw, are another version."""
SEED = 20_261_128
NUM_SAMPLES = 64
NUM_TOKENS = 128
CACHE_BYTES = 256 << 20
"""Of keys and values of samples that are drawn side by side."""
OPENERS = Path(__file__).with_name("openers.json")

OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class DrawnSample:
    prompt: list[int]
    drawn: list[int]
    is_chat: bool

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.drawn


def of_base(
    model: PreTrainedModel, folder: Path, kept: Path, on_progress: OnProgress
) -> list[DrawnSample]:
    """Those that were drawn before, else drawn now; the model is the plain base."""
    path = kept / f"samples-{VERSION}.json"
    try:
        return [DrawnSample(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        pass
    template = ChatTemplate.load(folder)
    prompts = prompts_of(template)
    drawn = draw(model, prompts, template.tokenizer.stop_ids, NUM_TOKENS, SEED, on_progress)
    samples = [
        DrawnSample(prompt, tokens, number < NUM_SAMPLES // 2)
        for number, (prompt, tokens) in enumerate(zip(prompts, drawn, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps([asdict(sample) for sample in samples]), encoding="utf-8")
    temporary.replace(path)
    return samples


def prompts_of(template: ChatTemplate) -> list[list[int]]:
    """Half of them chats that a user opens, half of them what a text begins with."""
    openers = json.loads(OPENERS.read_text(encoding="utf-8"))["openers"][: NUM_SAMPLES // 2]
    chats = [
        template.render([{"role": "user", "content": opener}], add_generation_prompt=True)
        for opener in openers
    ]
    # What the tokenizer puts before a text, or where a text ends: another one begins there.
    beginning = template.tokenizer.encode_prompt("") or [
        min(template.tokenizer.stop_ids, default=0)
    ]
    return chats + [beginning] * (NUM_SAMPLES - len(chats))


@torch.no_grad()
def draw(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stop_ids: frozenset[int],
    num_tokens: int,
    seed: int,
    on_progress: OnProgress = lambda _: None,
) -> list[list[int]]:
    """What follows each prompt: so many tokens, or fewer that end with one of `stop_ids`."""
    number = _num_side_by_side(model, max(map(len, prompts)) + num_tokens)
    drawn: list[list[int]] = []
    model.set_attn_implementation("sdpa")
    try:
        for start in range(0, len(prompts), number):
            batch = prompts[start : start + number]
            chances = np.stack(
                [_chances(seed, start + index, num_tokens) for index in range(len(batch))]
            )
            drawn += _draw(model, batch, stop_ids, torch.from_numpy(chances))
            on_progress(len(drawn) / len(prompts))
    finally:
        model.set_attn_implementation(attention.NAME)
    return drawn


def _chances(seed: int, sample: int, num_tokens: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers in [0, 1), one for each place."""
    generator = np.random.Generator(np.random.Philox(key=(seed << 64) + sample))
    return generator.random(num_tokens)


def _num_side_by_side(model: PreTrainedModel, num_tokens: int) -> int:
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    return int(max(1, CACHE_BYTES // (numbers * num_tokens * model.dtype.itemsize)))


def _draw(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stop_ids: frozenset[int],
    chances: Tensor,
) -> list[list[int]]:
    """`chances` (B, T). Shorter prompts stand to the right, behind places that nobody sees."""
    device = model.device
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    seen = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        seen[row, longest - len(prompt) :] = 1
    ids, seen = ids.to(device), seen.to(device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    drawn: list[list[int]] = [[] for _ in prompts]
    is_done = [False] * len(prompts)
    for place in range(chances.shape[1]):
        logits = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # (B, V)
        shares = torch.softmax(logits.double().cpu(), dim=-1).cumsum(dim=-1)
        wanted = chances[:, place, None] * shares[:, -1:]
        tokens = torch.searchsorted(shares, wanted, right=True).clamp(max=shares.shape[1] - 1)
        for row, token in enumerate(tokens[:, 0].tolist()):
            if not is_done[row]:
                drawn[row].append(token)
                is_done[row] = token in stop_ids
        if all(is_done):
            break
        ids = tokens.to(device)
        seen = torch.cat([seen, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return drawn
