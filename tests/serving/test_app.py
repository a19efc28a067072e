"""Over HTTP with OpenAI's own client, on a loopback port: what a disconnect does cannot be seen otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from foundation.errors import LuthierError
from serving.engine.engine import MAX_FAILURES, Engine
from serving.served_base import ServedBase
from storage import schema
from tests.serving.server import HELLO, KEY, MODEL, Running, listening, running_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_chat_completion_has_openais_shape(running: Running) -> None:
    completion = await running.openai.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=8, seed=1, logprobs=True, top_logprobs=3, n=2
    )
    assert completion.model == MODEL
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].message.content != completion.choices[1].message.content
    for choice in completion.choices:
        assert choice.finish_reason == "length"
        assert choice.message.role == "assistant"
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content) == 8
        assert len(choice.logprobs.content[0].top_logprobs) == 3
        spelled = b"".join(bytes(t.bytes or []) for t in choice.logprobs.content)
        assert spelled.decode(errors="replace") == choice.message.content
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 16
    prompt = running.served.template.render(HELLO, add_generation_prompt=True)
    assert completion.usage.prompt_tokens == len(prompt)


async def test_stream_says_what_the_whole_reply_says(running: Running) -> None:
    async def create(**more: Any) -> Any:
        return await running.openai.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=12, seed=5, n=2, **more
        )

    whole = await create()
    stream = await create(stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert [c.choices[0].delta.role for c in chunks[:2]] == ["assistant", "assistant"]
    for choice in whole.choices:
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(c.delta.content or "" for c in own) == choice.message.content
        assert [c.finish_reason for c in own if c.finish_reason] == [choice.finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_stream_is_a_stream_of_events(running: Running) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 3, "stream": True}
    reply = await running.http.post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.text.split("\n\n")
    assert all(event.startswith("data: ") for event in events[:-1])
    assert events[-2:] == ["data: [DONE]", ""]
    assert "usage" not in reply.text


async def test_usage_may_be_told_with_each_chunk(running: Running) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    for create in (
        lambda **more: running.openai.chat.completions.create(messages=HELLO, **more),
        lambda **more: running.openai.completions.create(prompt=["a", "b"], **more),
    ):
        stream: Any = await create(
            model=MODEL, max_tokens=6, n=2, seed=1, stream=True, stream_options=options
        )
        usages = [chunk.usage async for chunk in stream]
        told = [usage.completion_tokens for usage in usages]
        assert told == sorted(told)
        assert len({usage.prompt_tokens for usage in usages}) == 1
        assert told[-1] > told[0]


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_frees_its_row(running: Running, stream: bool) -> None:
    stats = running.served.engine.stats
    body = {
        "model": MODEL,
        "messages": HELLO,
        "max_tokens": 2000,
        "stream": stream,
        "n": 3,
        "logit_bias": {str(i): -100 for i in running.served.tokenizer.eos_ids},
    }

    async def request() -> None:
        async with running.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for _ in reply.aiter_bytes():
                pass

    task = asyncio.create_task(request())
    await running.until(lambda: stats().num_running == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await running.until(lambda: stats().num_running == 0)
    assert stats().num_waiting == 0


async def test_wrong_key_is_refused_everywhere_but_for_probes(running: Running) -> None:
    for headers in ({}, {"authorization": "Bearer sk-wrong"}):
        async with httpx.AsyncClient(base_url=running.url, headers=headers) as http:
            assert (await http.get("/v1/models")).status_code == 401
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await http.get(path)).status_code == 200


async def test_unknown_url_has_openais_error(running: Running) -> None:
    reply = await running.http.get("/v1/nothing")
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == "Invalid URL (GET /v1/nothing)"


async def test_metrics_count_tokens(running: Running) -> None:
    async def num_generated() -> float:
        text = (await running.http.get("/metrics")).text
        name = 'luthier_serving_tokens_total{kind="generated"} '
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        return float(line.removeprefix(name))

    before = await num_generated()
    await running.openai.completions.create(model=MODEL, prompt="abc", max_tokens=5)
    assert await num_generated() == before + 5


async def test_dead_engine_turns_readiness_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    async with running_server(tmp_path) as running:
        monkeypatch.setattr(Engine, "_forward", fail)
        for _ in range(MAX_FAILURES - 1):
            with pytest.raises(openai.InternalServerError, match="failed at this request"):
                await running.openai.chat.completions.create(model=MODEL, messages=HELLO)
        with pytest.raises(openai.InternalServerError, match="engine failed"):
            await running.openai.chat.completions.create(model=MODEL, messages=HELLO)
        assert (await running.http.get("/readyz")).status_code == 503
        assert (await running.http.get("/healthz")).status_code == 200
        with pytest.raises(openai.InternalServerError):
            await running.openai.chat.completions.create(model=MODEL, messages=HELLO)
        await running.until(lambda: bool(running.failures))


async def test_base_that_cannot_be_loaded_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def load() -> ServedBase:
        raise LuthierError("no weights")

    failures: list[str] = []
    async with (
        listening(load, failures) as url,
        httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http,
    ):
        async with asyncio.timeout(5):
            while not failures:
                await asyncio.sleep(0.01)
        assert (await http.get("/readyz")).status_code == 503
        reply = await http.post("/v1/chat/completions", json={"model": MODEL, "messages": HELLO})
    assert reply.status_code == 503
    assert reply.json()["error"]["message"] == "The base model cannot be loaded."
    assert "no weights" in caplog.text


async def test_gateway_of_another_schema_revision_is_refused(running: Running) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 1}
    url = "/v1/chat/completions"
    reply = await running.http.post(url, json=body, headers={schema.HEADER: "0001"})
    assert reply.status_code == 503
    assert "0001" in reply.json()["error"]["message"]
    reply = await running.http.post(url, json=body, headers={schema.HEADER: schema.REVISION})
    assert reply.status_code == 200
