"""Prompts scored as lm-eval 0.4.13 does with `local-completions`, in its own words, against transformers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import PreTrainedModel

from tests.serving.parts import load_model
from tests.serving.server import MODEL, SETTINGS, Running, running_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    settings = SETTINGS.replace(precision="fp32")
    async with running_server(tmp_path_factory.mktemp("scoring"), settings) as it:
        yield it


def payload(prompts: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "prompt": prompts,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }


def parsed(reply: dict[str, Any], lengths: list[int]) -> list[tuple[float, bool]]:
    """What lm-eval makes of a reply, by the lengths of the contexts."""
    found = []
    choices = sorted(reply["choices"], key=itemgetter("index"))
    for choice, length in zip(choices, lengths, strict=True):
        values = choice["logprobs"]["token_logprobs"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        is_greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
        found.append((sum(values), is_greedy))
    return found


def expected(
    model: PreTrainedModel, context: list[int], continuation: list[int]
) -> tuple[float, bool]:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([context + continuation])).logits[0].float()
    logprobs = logits.log_softmax(-1)[len(context) - 1 : -1]
    total = float(logprobs[range(len(continuation)), continuation].sum())
    return total, logprobs.argmax(-1).tolist() == continuation


def greedy(model: Any, context: list[int], num: int) -> list[int]:
    ids = torch.tensor([context])
    made = model.generate(ids, max_new_tokens=num, do_sample=False, pad_token_id=0)
    return [int(token) for token in made[0, len(context) :]]


async def test_a_batch_of_token_ids_is_scored_as_transformers_does(
    running: Running, base_path: Path
) -> None:
    model = load_model(base_path, "sdpa")
    contexts = [list(b"Question: who?\nAnswer:"), list(b"a"), list("Straße \u20ac".encode())]
    continuations = [list(b" nobody"), list("ü€".encode()), list(b"\xe2")]
    pairs = [*zip(contexts, continuations, strict=True)]
    # What the model itself says, and the same with the end behind it, and in the middle.
    end = running.served.tokenizer.eos_id or 0
    said = greedy(model, contexts[0], 4)
    pairs += [(contexts[0], said), (contexts[0], [*said, end]), ([*contexts[1], end], said)]
    # What the reply's one token is says nothing of them, also where that is the end.
    for more in ({}, {"logit_bias": {str(end): 100}}):
        body = payload([a + b for a, b in pairs]) | more
        reply = (await running.http.post("/v1/completions", json=body)).raise_for_status().json()
        assert [choice["index"] for choice in reply["choices"]] == [*range(len(pairs))]
        for (context, continuation), choice in zip(pairs, reply["choices"], strict=True):
            logprobs = choice["logprobs"]
            num_tokens = len(context) + len(continuation) + 1
            assert {len(logprobs[name]) for name in logprobs} == {num_tokens}
        scores = parsed(reply, [len(context) for context, _ in pairs])
        oracle = [expected(model, *pair) for pair in pairs]
        assert [total for total, _ in scores] == pytest.approx([t for t, _ in oracle], abs=1e-3)
        assert [is_greedy for _, is_greedy in scores] == [is_greedy for _, is_greedy in oracle]
        assert oracle[3][1]


async def test_texts_are_scored_like_their_token_ids(running: Running) -> None:
    """Which lm-eval sends with `tokenized_requests=False`."""
    texts = ["Question: who?\nAnswer: nobody", "Straße"]
    replies = [
        (await running.http.post("/v1/completions", json=payload(prompts))).json()
        for prompts in (texts, [list(text.encode()) for text in texts])
    ]
    of_text, of_ids = (
        [choice["logprobs"]["token_logprobs"] for choice in reply["choices"]] for reply in replies
    )
    for one, other in zip(of_text, of_ids, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


async def test_what_is_generated_until_a_text_is_what_transformers_generates(
    running: Running, base_path: Path
) -> None:
    contexts = [list(b"Once upon"), list(b"A longer beginning")]
    body = {
        "prompt": contexts,
        "model": MODEL,
        "max_tokens": 12,
        "temperature": 0,
        "stop": ["\n\n", "<|im_end|>"],
        "seed": 1234,
    }
    reply = (await running.http.post("/v1/completions", json=body)).raise_for_status().json()
    model = load_model(base_path, "sdpa")
    for context, choice in zip(contexts, reply["choices"], strict=True):
        ids = greedy(model, context, 12)
        text = running.served.tokenizer.decode(ids).partition("\n\n")[0]
        assert choice["text"] == text
