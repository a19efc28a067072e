"""Over HTTP with OpenAI's own client, on a loopback port: what a disconnect does cannot be seen otherwise."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
import uvicorn
from openai import AsyncOpenAI

from serving import served_base
from serving.adapters import AdapterRef
from serving.app import create_app
from serving.engine import Engine
from serving.served_base import ServedBase
from serving.settings import ServingSettings
from storage.base_models import BaseModel
from storage.blobs import BlobStore, open_store
from storage.errors import LuthierError
from tests.serving.parts import ref_of, tar_of, write_adapter

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-internal"
BASE = BaseModel("tiny-random", "builtin:tiny-random", "1", max_seq_len=2048)
SETTINGS = ServingSettings(kv_bytes=8 << 20, slots=2)
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
MODEL = "tiny-random"


@dataclass
class Running:
    """A server, its clients, and its inside."""

    url: str
    openai: AsyncOpenAI
    http: httpx.AsyncClient
    served: ServedBase
    blobs: BlobStore
    failures: list[str]

    def headers(self, ref: AdapterRef, salt: str = "") -> dict[str, str]:
        return {
            "x-luthier-adapter-sha256": ref.sha256,
            "x-luthier-adapter-bytes": str(ref.size_bytes),
            "x-luthier-cache-salt": salt,
        }

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(
    load: Callable[[], Awaitable[ServedBase]], failures: list[str]
) -> AsyncIterator[str]:
    app = create_app(load, internal_key=KEY, on_failure=lambda: failures.append("failed"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def running_server(tmp_path: Path) -> AsyncIterator[Running]:
    blobs = open_store(f"file://{tmp_path}/blobs")
    found: list[ServedBase] = []

    async def load() -> ServedBase:
        served = await served_base.load(
            BASE,
            frozenset({BASE.id, "gpt-4o-mini"}),
            bases_dir=tmp_path / "bases",
            cache_dir=tmp_path / "cache",
            blobs=blobs,
            settings=SETTINGS,
        )
        found.append(served)
        return served

    failures: list[str] = []
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        listening(load, failures) as url,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http,
        AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=20) as client,
    ):
        async with asyncio.timeout(20):
            while (await http.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.02)
        yield Running(url, client, http, found[0], blobs, failures)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One server for the whole file; what breaks a server starts its own."""
    async with running_server(tmp_path_factory.mktemp("serving")) as it:
        yield it


def store_adapter(
    running: Running, base_path: Path, folder: Path, adapter_id: str, seed: int = 1
) -> AdapterRef:
    content = tar_of(write_adapter(base_path, folder, seed=seed))
    ref = ref_of(adapter_id, content)
    with running.blobs.writer(ref.blob_key) as writer:
        writer.write(content)
        writer.commit()
    return ref


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
        assert [c.finish_reason for c in own if c.finish_reason] == ["length"]
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


async def test_harmless_and_unknown_fields_are_accepted(running: Running) -> None:
    completion = await running.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=1,
        user="somebody",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        seed=-9007199254740991,
        response_format={"type": "text"},
        tool_choice="none",
        extra_body={"something_new": {"nested": 1}, "tools": []},
    )
    assert completion.choices


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"foo": "bar"}, "strict": True}}

# All that openai's own test suite asks for at once.
EVERYTHING: dict[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"},
    "frequency_penalty": -2,
    "function_call": "none",
    "functions": [{"name": "name", "description": "d", "parameters": {"foo": "bar"}}],
    "logit_bias": {"foo": 0},
    "logprobs": True,
    "max_completion_tokens": 0,
    "max_tokens": 0,
    "metadata": {"foo": "string"},
    "modalities": ["text"],
    "moderation": {"model": "model", "policy": {"input": {"mode": "score"}}},
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"content": "string", "type": "content"},
    "presence_penalty": -2,
    "prompt_cache_key": "prompt-cache-key-1234",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "in_memory",
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "safety_identifier": "safety-identifier-1234",
    "seed": -9007199254740991,
    "service_tier": "auto",
    "stop": "\n",
    "store": True,
    "stream_options": {"include_obfuscation": True, "include_usage": True},
    "temperature": 1,
    "tool_choice": "none",
    "tools": [TOOL],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "user-1234",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low", "user_location": {"type": "approximate"}},
}


@pytest.mark.parametrize("stream", [False, True])
async def test_everything_may_be_asked_of_a_reply_without_tokens(
    running: Running, stream: bool
) -> None:
    body = {"model": MODEL, "messages": HELLO, **EVERYTHING, "stream": stream}
    reply = await running.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200
    if not stream:
        (choice,) = reply.json()["choices"]
        assert choice["message"]["content"] == ""
        assert choice["finish_reason"] == "length"
        assert choice["logprobs"] == {"content": [], "refusal": None}


@pytest.mark.parametrize(
    ("param", "value", "more"),
    [
        ("tools", [TOOL], {}),
        ("tools", [TOOL], {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ("functions", [{"name": "f"}], {}),
        ("response_format", {"type": "json_object"}, {}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}, {}),
        ("modalities", ["text", "audio"], {"audio": {"voice": "alloy", "format": "mp3"}}),
        ("web_search_options", {"search_context_size": "low"}, {}),
        ("moderation", {"model": "x"}, {}),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    running: Running, param: str, value: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await running.openai.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body={param: value, **more}
        )
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"prediction": {"type": "content", "content": "x"}},
        {"audio": {"voice": "alloy", "format": "mp3"}, "modalities": ["text"]},
        {"reasoning_effort": "high", "verbosity": "low", "service_tier": "flex"},
        {"logit_bias": {"foo": 0, "5": 1}},
        {"stop": None, "n": None, "temperature": 1, "stream": None, "stream_options": None},
    ],
)
async def test_what_changes_no_reply_is_accepted(running: Running, body: dict[str, Any]) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 1, **body}
    reply = await running.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200


CHAT: dict[str, Any] = {"messages": HELLO}
TEXT: dict[str, Any] = {"prompt": "x"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "empty_array"),
        ({}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages", None),
        (CHAT | {"n": 0}, "n", "integer_below_min_value"),
        (CHAT | {"n": 129}, "n", "integer_above_max_value"),
        (CHAT | {"n": "1"}, "n", "invalid_type"),
        (CHAT | {"n": 1.5}, "n", "invalid_type"),
        (CHAT | {"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        (CHAT | {"temperature": -1}, "temperature", "integer_below_min_value"),
        (CHAT | {"top_p": "x"}, "top_p", "invalid_type"),
        (CHAT | {"seed": 2**63}, "seed", "integer_above_max_value"),
        (CHAT | {"stream": "true"}, "stream", "invalid_type"),
        (CHAT | {"stream_options": 7}, "stream_options", "invalid_type"),
        (CHAT | {"user": 7}, "user", "invalid_type"),
        (CHAT | {"stop": 7}, "stop", "invalid_value"),
        (CHAT | {"stop": list("abcde")}, "stop", "array_above_max_length"),
        (CHAT | {"top_logprobs": 2}, "top_logprobs", None),
        (CHAT | {"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        (CHAT | {"logit_bias": {"259": 1}}, "logit_bias", "invalid_value"),
        (CHAT | {"logit_bias": {"9" * 5000: 1}}, "logit_bias", "invalid_value"),
        (CHAT | {"logit_bias": {"1": 101}}, "logit_bias.1", "integer_above_max_value"),
        (CHAT | {"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        (CHAT | {"max_tokens": 5000}, "messages", "context_length_exceeded"),
        (CHAT | {"tool_choice": "required"}, "tool_choice", None),
        (CHAT | {"tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
        (CHAT | {"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "missing_required_parameter"),
        (CHAT | {"tools": [TOOL] * 129}, "tools", "array_above_max_length"),
        (CHAT | {"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (CHAT | {"safety_identifier": "x" * 65}, "safety_identifier", "string_above_max_length"),
        (CHAT | {"verbosity": "loud"}, "verbosity", "invalid_value"),
        ({"prompt": "x" * 3000}, "messages", "context_length_exceeded"),
        ({"prompt": []}, "prompt", None),
        ({"prompt": [1, 5000]}, "prompt", None),
        ({"prompt": ["x", 1]}, "prompt", "invalid_value"),
        (TEXT | {"best_of": 2, "n": 3}, "best_of", "invalid_value"),
        (TEXT | {"best_of": 3, "stream": True}, "best_of", "invalid_value"),
        (TEXT | {"best_of": 21}, "best_of", "integer_above_max_value"),
        (TEXT | {"logprobs": 6}, "logprobs", "integer_above_max_value"),
        (TEXT | {"echo": 1}, "echo", "invalid_type"),
    ],
)  # fmt: skip
async def test_bad_request_names_the_field(
    running: Running, body: dict[str, Any], param: str, code: str | None
) -> None:
    path = "completions" if "prompt" in body else "chat/completions"
    reply = await running.http.post(f"/v1/{path}", json={"model": MODEL, **body})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


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


async def test_adapter_is_fetched_on_its_first_request(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    refs = [
        store_adapter(running, base_path, tmp_path / n, f"adapter-{n}", s)
        for s, n in enumerate("abcd")
    ]

    async def ask(model: str, headers: dict[str, str]) -> str:
        completion = await running.openai.chat.completions.create(
            model=model, messages=HELLO, max_tokens=16, temperature=0, extra_headers=headers
        )
        assert completion.model == model
        return completion.choices[0].message.content or ""

    texts = await asyncio.gather(
        ask(MODEL, {}), *(ask(ref.id, running.headers(ref)) for ref in refs)
    )
    assert len(set(texts)) == 5
    listed = [model.id async for model in running.openai.models.list()]
    assert set(listed) >= {MODEL, "gpt-4o-mini", *(ref.id for ref in refs)}


async def test_damaged_adapter_is_a_server_error_and_never_cached(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "a", "adapter-damaged")
    other = AdapterRef(ref.id, "0" * 64, ref.size_bytes)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match="damaged"):
            await running.openai.chat.completions.create(
                model=ref.id, messages=HELLO, extra_headers=running.headers(other)
            )
    assert ref.id not in running.served.adapters.ids_in_ram


@pytest.mark.parametrize("model", ["adapter-unknown", "gpt-5", "../../etc/passwd", ""])
async def test_unknown_model_is_not_found(running: Running, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await running.openai.chat.completions.create(model=model, messages=HELLO)
    assert caught.value.code == "model_not_found"


async def test_cached_tokens_are_reported_within_one_salt_only(running: Running) -> None:
    async def cached_tokens(salt: str) -> int | None:
        completion = await running.openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "x" * 300}],
            max_tokens=2,
            extra_headers={"x-luthier-cache-salt": salt},
        )
        assert completion.usage is not None
        assert completion.usage.prompt_tokens_details is not None
        return completion.usage.prompt_tokens_details.cached_tokens

    assert await cached_tokens("proj_a") == 0
    assert await cached_tokens("proj_b") == 0
    assert (await cached_tokens("proj_a") or 0) > 300


async def test_prefetched_adapter_is_served_and_unloaded_again(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "a", "adapter-prefetched")
    path = f"/v1/luthier/adapters/{ref.id}"
    body = {"sha256": ref.sha256, "size_bytes": ref.size_bytes}
    reply = await running.http.post(f"{path}/prefetch", json=body)
    assert reply.status_code == 200
    await running.openai.chat.completions.create(model=ref.id, messages=HELLO, max_tokens=2)
    assert ref.id in running.served.engine.stats().loaded_adapter_ids
    reply = await running.http.delete(path)
    assert reply.json()["status"] == "unloaded"
    assert ref.id not in running.served.engine.stats().loaded_adapter_ids
    with pytest.raises(openai.NotFoundError):
        await running.openai.chat.completions.create(model=ref.id, messages=HELLO)


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
