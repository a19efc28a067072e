"""What happens to the server: each action is a client that does one thing and says how it went."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from foundation.headers import ARTIFACT_BYTES, ARTIFACT_KIND, ARTIFACT_SHA256, CACHE_SALT, WEIGHT
from modeling.artifacts import full, lora, output_layers, prefix
from serving.adapters.ref import AdapterRef
from storage.blobs.blobs import BlobStore

from .artifacts import BAD, Publisher

KINDS = (*[lora.KIND] * 8, *[prefix.KIND] * 2, output_layers.KIND, full.KIND)
NUM_MODELS = 16
PROJECTS = ("proj_a", "proj_b", "proj_c", "proj_d")
GONE_OR_BUSY = frozenset({404, 429, 500})
"""Where an artifact is deleted at any moment: 500 is what its blob, which is gone, gives who comes a moment later."""


class Actions:
    def __init__(
        self,
        http: httpx.AsyncClient,
        publisher: Publisher,
        blobs: BlobStore,
        base_id: str,
        chance: random.Random,
    ) -> None:
        self.http = http
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        """What should not have happened."""
        self._publisher = publisher
        self._blobs = blobs
        self._base_id = base_id
        self._chance = chance
        self._models = [publisher.publish(self._chance.choice(KINDS)) for _ in range(NUM_MODELS)]
        self._num_schemas = 0
        self._weighted: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.chat, 8),
            (self.stream, 8),
            (self.hang_up, 6),
            (self.score, 2),
            (self.hold_to_schema, 3),
            (self.prefetch, 1),
            (self.replace, 1),
            (self.send_nonsense, 2),
            (self.use_bad_artifact, 1),
        ]

    async def one(self) -> None:
        """Something, at random."""
        actions, weights = zip(*self._weighted, strict=True)
        (action,) = self._chance.choices(actions, weights)
        name = action.__name__
        try:
            async with asyncio.timeout(60):
                await action()
            self.outcomes[name] += 1
        except TimeoutError:
            self.problems.append(f"{name}: no end within 60 s")
        except httpx.HTTPError as error:
            self.problems.append(f"{name}: {error!r}")

    async def delete_all(self) -> None:
        for ref in self._models:
            await self._delete(ref)

    async def chat(self) -> None:
        await self._post("/v1/chat/completions", {"n": self._chance.choice((1, 1, 2, 4))})

    async def stream(self) -> None:
        await self._follow(num_chunks=None)

    async def hang_up(self) -> None:
        """In the middle of a stream, or before anything has come."""
        if self._chance.random() < 0.5:
            await self._follow(num_chunks=self._chance.randrange(1, 10))
            return
        asking = asyncio.ensure_future(self._post("/v1/chat/completions", {"max_tokens": 200}))
        await asyncio.sleep(self._chance.random() * 0.1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def score(self) -> None:
        prompt = [self._chance.randrange(256) for _ in range(self._chance.randrange(1, 300))]
        asked = {"prompt": [prompt, prompt[:20]], "messages": None, "echo": True, "logprobs": 2}
        await self._post("/v1/completions", {**asked, "max_tokens": 1})

    async def hold_to_schema(self) -> None:
        """One that the server has never seen."""
        self._num_schemas += 1
        names = [f"p{self._num_schemas}_{number}" for number in range(5)]
        schema = {
            "type": "object",
            "properties": {name: {"enum": ["a", "b", name]} for name in names},
            "required": names,
            "additionalProperties": False,
        }
        wanted = {"name": "it", "strict": True, "schema": schema}
        form = {"type": "json_schema", "json_schema": wanted}
        reply = await self._post(
            "/v1/chat/completions", {"response_format": form, "max_tokens": 400}
        )
        choice = reply["choices"][0] if reply else {}
        is_whole = choice.get("finish_reason") == "stop"
        if is_whole and json.loads(choice["message"]["content"]).keys() != set(names):
            self.problems.append(f"not held to its schema: {choice}")

    async def prefetch(self) -> None:
        ref = self._chance.choice(self._models)
        body = {"sha256": ref.sha256, "size_bytes": ref.size_bytes, "kind": ref.kind}
        path = f"/v1/luthier/adapters/{ref.id}/prefetch"
        self._check(await self.http.post(path, json=body), {200, *GONE_OR_BUSY, 503})

    async def replace(self) -> None:
        """Delete a model, whoever is at it, and publish another."""
        place = self._chance.randrange(NUM_MODELS)
        gone = self._models[place]
        kind = self._chance.choice(KINDS)
        self._models[place] = await asyncio.to_thread(self._publisher.publish, kind)
        await self._delete(gone)

    async def send_nonsense(self) -> None:
        nonsense: dict[str, Any] = self._chance.choice(
            (
                {"max_tokens": 1 << 20},
                {"messages": [{"role": "nobody", "content": 7}]},
                {"messages": [{"role": "user", "content": "<" * 160_000}]},
                {"messages": [{"role": "user", "content": "x"}] * 4000},
                {"tool_choice": {"type": "function", "function": {"name": "nothing"}}},
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1:9/x"}},
                    }
                },
            )
        )
        await self._post("/v1/chat/completions", {"model": self._base_id, **nonsense}, {400, 429})

    async def use_bad_artifact(self) -> None:
        bad = self._chance.choice(BAD)
        ref = await asyncio.to_thread(self._publisher.publish, bad)
        body = {"model": ref.id, "messages": [{"role": "user", "content": "x"}]}
        reply = await self.http.post("/v1/chat/completions", json=body, headers=_headers(ref))
        if reply.status_code != 500 or "cannot be used" not in reply.text:
            self.problems.append(f"an artifact that is {bad}: {reply.status_code} {reply.text}")
        await self._delete(ref)

    async def _delete(self, ref: AdapterRef) -> None:
        self._blobs.delete(ref.blob_key)
        self._check(await self.http.delete(f"/v1/luthier/adapters/{ref.id}"), {200})

    def _asked(self, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Of any model, with a prompt that may begin as others do."""
        ref = self._chance.choice((None, *self._models))
        text = "Once upon a time " * self._chance.randrange(12) + str(self._chance.random())
        body = {
            "model": self._base_id if ref is None else ref.id,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self._chance.randrange(1, 60),
            "temperature": self._chance.choice((0, 1)),
            "stop": self._chance.choice((None, ["e"])),
            **options,
        }
        headers = {} if ref is None else _headers(ref)
        headers[CACHE_SALT] = self._chance.choice(PROJECTS)
        headers[WEIGHT] = self._chance.choice(("1", "3"))
        return {k: v for k, v in body.items() if v is not None}, headers

    async def _post(
        self, path: str, options: dict[str, Any], expected: set[int] | None = None
    ) -> dict[str, Any] | None:
        body, headers = self._asked(options)
        reply = await self.http.post(path, json=body, headers=headers)
        self._check(reply, expected or {200, *GONE_OR_BUSY, 503})
        return reply.json() if reply.status_code == 200 else None

    async def _follow(self, num_chunks: int | None) -> None:
        body, headers = self._asked({"stream": True})
        async with self.http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as reply:
            lines = []
            async for line in reply.aiter_lines():
                lines.append(line)
                if num_chunks is not None and len(lines) > num_chunks:
                    return
            is_whole = "data: [DONE]" in lines or any('"error"' in line for line in lines)
            if reply.status_code == 200 and not is_whole:
                self.problems.append(f"a stream without an end: {lines[-3:]}")
            if reply.status_code not in (200, *GONE_OR_BUSY, 503):
                self.problems.append(f"a stream: {reply.status_code} {lines}")

    def _check(self, reply: httpx.Response, expected: set[int]) -> None:
        self.outcomes[str(reply.status_code)] += 1
        is_explained = reply.status_code != 500 or any(
            word in reply.text for word in ("blob", "damaged", "missing", "not there")
        )
        if reply.status_code not in expected or not is_explained:
            self.problems.append(
                f"{reply.request.url.path}: {reply.status_code} {reply.text[:300]}"
            )


def _headers(ref: AdapterRef) -> dict[str, str]:
    return {
        ARTIFACT_SHA256: ref.sha256,
        ARTIFACT_BYTES: str(ref.size_bytes),
        ARTIFACT_KIND: ref.kind,
    }
