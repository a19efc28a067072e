"""Text completions over HTTP: prompts of every kind, scoring, several choices."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.server import HELLO, MODEL, Running

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_text_completion_with_several_prompts(running: Running) -> None:
    completion = await running.openai.completions.create(
        model="gpt-4o-mini", prompt=["one", "two"], n=2, max_tokens=4, seed=3, logprobs=2
    )
    assert completion.model == "gpt-4o-mini"
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    logprobs = completion.choices[2].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert len(logprobs.tokens) == 4
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (6, 16)


async def test_scoring_as_evaluation_harnesses_do(running: Running) -> None:
    """Token ids in, echo, one greedy token behind them, every prompt token with its log-probability."""
    prompts = [list(b"The cat sat"), list(b"on a")]
    completion = await running.openai.completions.create(
        model=MODEL, prompt=prompts, echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    for prompt, choice in zip(prompts, completion.choices, strict=True):
        logprobs = choice.logprobs
        assert logprobs is not None
        assert logprobs.token_logprobs is not None
        assert logprobs.top_logprobs is not None
        assert len(logprobs.token_logprobs) == len(prompt) + 1
        assert logprobs.token_logprobs[0] < 0
        assert choice.text.startswith(bytes(prompt).decode())
        # The generated token is the greedy one: its figure equals the largest exactly.
        assert logprobs.token_logprobs[-1] == max(logprobs.top_logprobs[-1].values())
        assert logprobs.text_offset is not None
        assert logprobs.text_offset[:3] == [0, 1, 2]


async def test_a_prompt_s_first_token_is_scored_as_after_an_empty_prompt(running: Running) -> None:
    async def create(prompt: Any, **more: Any) -> Any:
        completion = await running.openai.completions.create(
            model=MODEL, prompt=prompt, temperature=0, logprobs=0, **more
        )
        return completion.choices[0]

    free = await create("", max_tokens=1)
    scored = await create(free.text + "more", max_tokens=0, echo=True)
    assert scored.logprobs.tokens[0] == free.logprobs.tokens[0]
    assert scored.logprobs.token_logprobs[0] == pytest.approx(
        free.logprobs.token_logprobs[0], abs=1e-5
    )
    start = running.served.tokenizer.bos_id
    assert (await create([start, 5], max_tokens=0, echo=True)).logprobs.token_logprobs[0] is None


async def test_streamed_text_completion_echoes_its_prompt(running: Running) -> None:
    stream = await running.openai.completions.create(
        model=MODEL, prompt="abc", echo=True, max_tokens=4, temperature=0, stream=True
    )
    chunks = [chunk async for chunk in stream]
    whole = await running.openai.completions.create(
        model=MODEL, prompt="abc", echo=True, max_tokens=4, temperature=0
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.choices[0].text.startswith("abc")
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_zero_tokens_give_an_empty_reply(running: Running) -> None:
    completion = await running.openai.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=0, max_completion_tokens=0
    )
    assert completion.choices[0].message.content == ""
    assert completion.choices[0].finish_reason == "length"


async def test_the_best_of_several_completions_is_the_most_probable_one(running: Running) -> None:
    async def create(**more: Any) -> Any:
        return await running.openai.completions.create(
            model=MODEL, prompt=["one", "two"], max_tokens=6, seed=3, **more
        )

    def mean(choice: Any) -> float:
        logprobs: list[float] = choice.logprobs.token_logprobs
        return sum(logprobs) / len(logprobs)

    every = await create(n=4, logprobs=0)
    best = await create(n=2, best_of=4)
    for prompt in range(2):
        ranked = sorted(every.choices[prompt * 4 : prompt * 4 + 4], key=mean, reverse=True)
        chosen = best.choices[prompt * 2 : prompt * 2 + 2]
        assert [choice.text for choice in chosen] == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    assert best.choices[0].logprobs is None
    # What was generated was used, whether it is shown or not.
    assert best.usage.completion_tokens == every.usage.completion_tokens


async def test_a_completion_ends_where_its_suffix_begins(running: Running) -> None:
    async def create(**more: Any) -> Any:
        completion = await running.openai.completions.create(
            model=MODEL, prompt="abc", max_tokens=20, temperature=0, **more
        )
        return completion.choices[0]

    text = (await create()).text
    suffix = text[5:8]
    filled = await create(suffix=suffix)
    assert filled.text == text[: text.index(suffix)]
    assert filled.finish_reason == "stop"
    assert (await create(suffix="what the model never says")).text == text


async def test_every_option_of_a_text_completion_at_once(running: Running) -> None:
    completion = await running.openai.completions.create(
        model=MODEL,
        prompt="This is a test.",
        best_of=0,
        echo=True,
        frequency_penalty=-2,
        logit_bias={"foo": 0},
        logprobs=0,
        max_tokens=16,
        n=1,
        presence_penalty=-2,
        seed=0,
        stop="\n",
        suffix="test.",
        temperature=1,
        top_p=1,
        user="user-1234",
    )
    (choice,) = completion.choices
    assert choice.text.startswith("This is a test.")
    assert choice.logprobs is not None


async def test_the_token_that_ends_a_reply_is_the_one_asked_for(running: Running) -> None:
    """Who reads all but the last of the tokens reads the prompt, whatever comes behind it."""
    asked: dict[str, Any] = {
        "model": MODEL,
        "prompt": [list(b"The cat sat"), list(b"on")],
        "temperature": 0,
        "logprobs": 1,
        "logit_bias": {str(running.served.tokenizer.eos_id): 100},
    }
    completion = await running.openai.completions.create(**asked, max_tokens=1, echo=True)
    for choice, text in zip(completion.choices, ("The cat sat", "on"), strict=True):
        logprobs = choice.logprobs
        assert logprobs is not None
        assert (choice.text, choice.finish_reason) == (text, "stop")
        assert logprobs.tokens == [*text, "<|im_end|>"]
        assert (
            len(logprobs.top_logprobs or ()) == len(logprobs.token_logprobs or ()) == len(text) + 1
        )
        assert (logprobs.text_offset or [])[-1] == len(text)
        # The model's own, which is not what the bias makes of it.
        assert (logprobs.token_logprobs or [])[-1] < -1
    chunks = [c async for c in await running.openai.completions.create(**asked, stream=True)]
    streamed = [c.choices[0].logprobs.tokens for c in chunks if c.choices and c.choices[0].logprobs]
    assert streamed == [["<|im_end|>"]] * 2
