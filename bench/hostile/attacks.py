"""What one tenant does to a server in the hope that others wait: each attack bounded, and on loopback only.

An attack is a coroutine in a process of its own. It says `ground.is_on.set()` once it has effect, and
goes on until it is cancelled; what it was answered is counted in `ground`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx

from .ground import Ground
from .tenants import (
    ENDED,
    batch_body,
    batch_lines,
    chat_body,
    endpoint_body,
    job_body,
    lines,
    training_rows,
)

CHAT = "chat/completions"
TEXT = "completions"
JOBS = "fine_tuning/jobs"


@dataclass(frozen=True)
class Attack:
    run: Callable[[Ground], Awaitable[None]]
    harms: str
    """Which of the other tenant's waits is measured: chat, job, batch, webhook; or the api's memory."""
    base: str = ""
    """Where it takes another base than the usual one."""
    env: Mapping[str, str] = field(default_factory=dict)
    is_allowed: bool = False
    """Whether its own requests, too, must be answered in the end."""


async def _huge_multiplier(ground: Ground) -> None:
    await _train_and_sample(ground, [1e22])


async def _high_multiplier(ground: Ground) -> None:
    await _train_and_sample(ground, [1e6, 1e4, 1000.0, 100.0, 50.0, 20.0, 10.0])


async def _train_and_sample(ground: Ground, multipliers: list[float]) -> None:
    """With the first multiplier that is allowed; samples from what comes out at temperature 1.

    A single step, before whose end nobody sees a loss that is not finite.
    """
    file_id = await ground.upload(training_rows(), "fine-tune")
    for multiplier in multipliers:
        given = {"learning_rate_multiplier": multiplier, "batch_size": 10}
        reply = await ground.post(JOBS, job_body(ground.tenant.model, file_id, **given))
        if reply is not None and reply.status_code == 200:
            model = await _tuned_model(ground, reply.json()["id"])
            if model is not None:
                sampled = chat_body(model, "Hello", 16, temperature=1.0)
                await ground.repeat(CHAT, json.dumps(sampled).encode())
            ground.report.replies["job that published nothing"] += 1
            break
    ground.is_on.set()


async def _tuned_model(ground: Ground, job_id: str) -> str | None:
    while True:
        job = (await ground.http.get(f"{JOBS}/{job_id}")).json()
        if job["status"] in ENDED:
            return str(job["fine_tuned_model"]) if job["fine_tuned_model"] else None
        await asyncio.sleep(0.2)


async def _angle_brackets(ground: Ground) -> None:
    await ground.repeat(CHAT, json.dumps(chat_body(ground.tenant.model, "<" * 160_000)).encode())


async def _many_messages(ground: Ground) -> None:
    body = chat_body(ground.tenant.model, "")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    body["messages"] = turns * 2000
    await ground.repeat(CHAT, json.dumps(body).encode())


async def _long_prompt(ground: Ground) -> None:
    words = "the quick brown fox " * 400_000
    body = {"model": ground.tenant.model, "prompt": words, "max_tokens": 1}
    await ground.repeat(TEXT, json.dumps(body).encode())


async def _messages_of_ones(ground: Ground) -> None:
    body = chat_body(ground.tenant.model, "")
    body["messages"] = [1] * 1_000_000
    await ground.repeat(CHAT, json.dumps(body, separators=(",", ":")).encode())


async def _wrong_biases(ground: Ground) -> None:
    wrong = {f"x{number}": "y" for number in range(300_000)}
    body = chat_body(ground.tenant.model, "Hello", logit_bias=wrong)
    await ground.repeat(CHAT, json.dumps(body).encode())


async def _wrong_metadata(ground: Ground) -> None:
    wrong = {f"x{number}": number for number in range(300_000)}
    job = {"model": ground.tenant.model, "training_file": "file-none", "metadata": wrong}
    await ground.repeat(JOBS, json.dumps(job).encode())


async def _many_prompts(ground: Ground) -> None:
    body = {"model": ground.tenant.model, "prompt": ["a"] * 2048, "n": 128, "max_tokens": 16}
    await ground.repeat(TEXT, json.dumps(body).encode())


async def _many_choices(ground: Ground) -> None:
    body = chat_body(ground.tenant.model, "Hello", 100, n=100)
    await ground.flood(CHAT, lambda: json.dumps(body).encode(), num_parallel=64)


async def _tags(ground: Ground) -> None:
    tags = "".join(f"<t{number % 10}>" for number in range(1000))
    await ground.repeat(CHAT, json.dumps(chat_body(ground.tenant.model, tags, 16)).encode())


async def _big_contexts(ground: Ground) -> None:
    """Each more than half of the keys and values there is room for, and the beginnings of many the same."""
    chance = random.Random(1)
    stem = "".join(chance.choice("abcdefgh ") for _ in range(1900))

    def body() -> bytes:
        num_shared, num_own = chance.randrange(600, 1500), chance.randrange(100, 700)
        own = "".join(chance.choice("abcdefgh ") for _ in range(min(num_own, 1850 - num_shared)))
        wanted = chat_body(ground.tenant.model, stem[:num_shared] + own, 100, temperature=0)
        return json.dumps(wanted).encode()

    await ground.flood(CHAT, body, num_parallel=4)


async def _half_requests(ground: Ground) -> None:
    """1,150 sockets without a key that each send the half of a request, and then wait."""
    begun = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le"
    async with AsyncExitStack() as stack:
        for _ in range(1150):
            stack.callback(ground.connect(begun).close)
            await asyncio.sleep(0)
        await ground.rest()


async def _unread_streams(ground: Ground) -> None:
    """300 streams of a job of many steps, of which nobody reads a byte."""
    file_id = await ground.upload(training_rows(512), "fine-tune")
    body = job_body(ground.tenant.model, file_id, n_epochs=50, batch_size=1)
    reply = await ground.post(JOBS, body)
    assert reply is not None
    job = reply.raise_for_status().json()["id"]
    asked = (
        f"GET /v1/{JOBS}/{job}/events?stream=true HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {ground.tenant.api_key}\r\n\r\n"
    ).encode()
    async with AsyncExitStack() as stack:
        for _ in range(300):
            stack.callback(ground.connect(asked).close)
            await asyncio.sleep(0)
        while not _has_begun(await ground.http.get(f"{JOBS}/{job}/events")):
            await asyncio.sleep(0.2)
        await ground.rest()


def _has_begun(events: httpx.Response) -> bool:
    return any(event["type"] == "metrics" for event in events.json()["data"])


async def _tarpit(ground: Ground) -> None:
    """300 deliveries to receivers that take the connection and never answer."""

    async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for number in range(100):
        await ground.post("webhook_endpoints", endpoint_body(f"http://127.0.0.1:{port}/{number}"))
    file_id = await ground.upload(training_rows(), "fine-tune")
    for _ in range(3):
        reply = await ground.post(JOBS, job_body(ground.tenant.model, file_id))
        assert reply is not None
        await ground.post(f"{JOBS}/{reply.raise_for_status().json()['id']}/cancel", {})
    await ground.rest()


async def _eight_batches(ground: Ground) -> None:
    bodies = [chat_body(ground.tenant.model, f"Hello {n}", 100) for n in range(1500)]
    file_id = await ground.upload(batch_lines(bodies), "batch")
    for _ in range(8):
        await ground.post("batches", batch_body(file_id))
    await asyncio.sleep(3.0)
    await ground.rest()


async def _sixty_jobs(ground: Ground) -> None:
    file_id = await ground.upload(training_rows(), "fine-tune")
    for _ in range(60):
        await ground.post(JOBS, job_body(ground.tenant.model, file_id))
    await ground.rest()


async def _long_row(ground: Ground) -> None:
    messages = [
        {"role": "user", "content": "<" * 1_000_000},
        {"role": "assistant", "content": "Blue."},
    ]
    content = lines([{"messages": messages}]) + training_rows()
    file_id = await ground.upload(content, "fine-tune")
    await ground.post(JOBS, job_body(ground.tenant.model, file_id))
    await asyncio.sleep(2.0)
    await ground.rest()


async def _big_bodies(ground: Ground) -> None:
    """Full of small objects, which take far more room once they are read than as text."""
    body = chat_body(ground.tenant.model, "")
    body["messages"] = [{"role": "user", "content": "a"}] * 370_000
    content = json.dumps(body, separators=(",", ":")).encode()
    ground.is_on.set()
    await asyncio.gather(*(ground.post(CHAT, content) for _ in range(3)))


_ALLOWED_CONTEXTS = {
    # Room for some 3,000 tokens of the tiny base, whose context is 2,048.
    "LUTHIER_SERVING_KV_BYTES": str(3000 * 512),
    "LUTHIER_SERVING_PRECISION": "fp32",
}
_TARPIT_ALLOWED = {"LUTHIER_WEBHOOK_ALLOW_PRIVATE": "1"}

ATTACKS = {
    "multiplier of 1e22": Attack(_huge_multiplier, "chat"),
    "highest multiplier allowed": Attack(_high_multiplier, "chat"),
    "160 kB of <": Attack(_angle_brackets, "chat"),
    "4,000 messages": Attack(_many_messages, "chat"),
    "8 MB text prompt": Attack(_long_prompt, "chat"),
    "1,000,000 wrong messages": Attack(_messages_of_ones, "chat"),
    "300,000 wrong biases": Attack(_wrong_biases, "chat"),
    "300,000 wrong metadata": Attack(_wrong_metadata, "chat"),
    "2,048 prompts, n = 128": Attack(_many_prompts, "chat"),
    "64 chats, n = 100": Attack(_many_choices, "chat"),
    "1,000 tags": Attack(_tags, "chat", base="smollm2-135m-instruct"),
    "contexts of half the pool": Attack(
        _big_contexts, "chat", env=_ALLOWED_CONTEXTS, is_allowed=True
    ),
    "1,150 half requests": Attack(_half_requests, "chat"),
    "300 unread streams": Attack(_unread_streams, "chat"),
    "webhooks to a tarpit": Attack(_tarpit, "webhook", env=_TARPIT_ALLOWED),
    "8 batches": Attack(_eight_batches, "batch"),
    "60 queued jobs": Attack(_sixty_jobs, "job"),
    "training row of 1 MB": Attack(_long_row, "job"),
    "three 12 MB bodies": Attack(_big_bodies, "memory"),
}
