"""All that can come at an inference server at once, for three minutes, and what is left of it: `python -m bench.soak`.

Chats, streams, scores, calls and replies held to schemas that nobody has seen before, on the base and on more adapters than
there are slots for; clients that leave in the middle; grammars that are refused; adapters that are forgotten while they are
in use. When nobody asks any more: nothing runs or waits, every store is within its budget, a prompt as long as the context
finds room, and threads, open files and memory are what they were after the first third. It exits with 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from bench.serving import adapters
from bench.serving.http import HttpServer, luthier
from bench.strict_json import KINDS
from modeling.importer import ensure_imported
from storage.blobs.blobs import open_store
from storage.models.base_models import Catalogue

NUM_ADAPTERS = 20
NUM_CLIENTS = 12
QUIET_S = 5.0
MORE_THREADS, MORE_FILES = 4, 16
MORE_BYTES = 96 << 20
"""What a server may have more of in the end than after the first third, when all has been met once; of memory, besides what
its stores say that they hold."""
STORES = ("grammar_bytes", "whole_model_bytes", "adapter_tier_bytes")
# So little that all of it has been written to before the first third is over.
os.environ.setdefault("LUTHIER_SERVING_KV_BYTES", str(128 << 20))
GAUGE = re.compile(r"^(\w+)(?:\{tier=\"(\w+)\"\})? ([0-9.e+]+)$", re.MULTILINE)

Json = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--bases-dir", type=Path, default=Path(".luthier/bases"))
    parser.add_argument("--seconds", type=float, default=180)
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(arguments.base)
    if base is None:
        parser.error(f"there is no base {arguments.base}")
    base_path = ensure_imported(base, arguments.bases_dir)

    async def run(scratch: Path) -> Json:
        blobs = open_store(f"file://{scratch}/blobs")
        refs = [
            adapters.upload(blobs, adapters.write(base_path, scratch / f"adapter-{seed}", seed))
            for seed in range(NUM_ADAPTERS)
        ]
        async with luthier(base.id, arguments.bases_dir, scratch, refs, []) as server:
            soak = Soak(server, base.id, [ref.id for ref in refs])
            return await soak.run(arguments.seconds)

    with TemporaryDirectory(prefix="bench-soak-") as scratch:
        found = asyncio.run(run(Path(scratch)))
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["leaked"] else 0)


class Soak:
    def __init__(self, server: HttpServer, base: str, adapter_ids: list[str]) -> None:
        self._server = server
        self._http = server.client
        self._base = base
        self._adapter_ids = adapter_ids
        self._chance = random.Random(0)
        self._replies: Counter[str] = Counter()
        self._is_over = False

    async def run(self, seconds: float) -> Json:
        before = await self._asked(seconds / 3)
        after = await self._asked(2 * seconds / 3)
        gauges = await self._gauges()
        return {
            "replies": dict(sorted(self._replies.items())),
            "after a third": before,
            "in the end": after,
            "leaked": [
                *(f"{status} was answered" for status in self._replies if "500" in status),
                *_beyond_budget(gauges),
                *_grown(before, after),
                *(["a prompt as long as the context"] if await self._is_crowded() else []),
            ],
        }

    async def _gauges(self) -> dict[tuple[str, str], float]:
        """By name and tier."""
        text = (await self._http.get("/metrics")).text
        return {(name, tier): float(value) for name, tier, value in GAUGE.findall(text)}

    async def _asked(self, seconds: float) -> dict[str, int]:
        """What the server holds once it was asked for so long, and nobody asks any more."""
        self._is_over = False
        clients = [asyncio.create_task(self._ask()) for _ in range(NUM_CLIENTS)]
        await asyncio.sleep(seconds)
        self._is_over = True
        await asyncio.gather(*clients)
        await asyncio.sleep(QUIET_S)
        stored = [
            size
            for (name, tier), size in (await self._gauges()).items()
            if name.removeprefix("luthier_serving_") in STORES and tier != "disk"
        ]
        return {**_held(self._server.pid), "bytes in stores": int(sum(stored))}

    async def _ask(self) -> None:
        kinds: list[Callable[[], Awaitable[str]]] = [
            *(self._chat, self._stream, self._leave, self._score),
            *(self._schema, self._call, self._refused, self._forget),
        ]
        while not self._is_over:
            ask = self._chance.choice(kinds)
            name = ask.__name__.strip("_")
            try:
                outcome = await ask()
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            self._replies[f"{name}: {outcome}"] += 1

    async def _chat(self) -> str:
        return await self._post("/v1/chat/completions", self._body(n=self._chance.randrange(1, 4)))

    async def _stream(self) -> str:
        return await self._followed(self._body(stream=True, max_tokens=40), None)

    async def _leave(self) -> str:
        body = self._body(stream=True, max_tokens=200)
        return await self._followed(body, self._chance.randrange(6))

    async def _score(self) -> str:
        prompts = [self._text(40), self._text(10)]
        body = {"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 1}
        return await self._post("/v1/completions", {"model": self._model(), **body})

    async def _schema(self) -> str:
        names = [f"{self._chance.choice('abc')}{self._chance.randrange(10**6)}" for _ in range(20)]
        schema = {
            "type": "object",
            "properties": {name: self._chance.choice(KINDS) for name in names},
            "required": names,
            "additionalProperties": False,
        }
        format = {"type": "json_schema", "json_schema": {"name": "soak", "schema": schema}}
        return await self._post("/v1/chat/completions", self._body(response_format=format))

    async def _call(self) -> str:
        name = f"f{self._chance.randrange(100)}"
        parameters = {"type": "object", "properties": {"a": self._chance.choice(KINDS)}}
        tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
        asked = self._body(tools=[tool], tool_choice="required", stream=True)
        return await self._followed(asked, None)

    async def _refused(self) -> str:
        regex = f"(a|b{{{self._chance.randrange(9)}}})*(?=c)"
        grammar = {"grammar": {"type": "regex", "definition": regex}}
        return await self._post("/v1/chat/completions", self._body(luthier=grammar))

    async def _forget(self) -> str:
        adapter_id = self._chance.choice(self._adapter_ids)
        reply = await self._http.delete(f"/v1/luthier/adapters/{adapter_id}")
        return str(reply.status_code)

    async def _post(self, path: str, body: Json) -> str:
        headers = self._server.headers_of(body["model"])
        return str((await self._http.post(path, json=body, headers=headers)).status_code)

    async def _followed(self, body: Json, num_lines: int | None) -> str:
        """A stream, to its end or as far as so many lines."""
        headers = self._server.headers_of(body["model"])
        path, seen = "/v1/chat/completions", 0
        async with self._http.stream("POST", path, json=body, headers=headers) as reply:
            async for _ in reply.aiter_lines():
                seen += 1
                if num_lines is not None and seen > num_lines:
                    return "left"
        return str(reply.status_code)

    def _body(self, **more: Any) -> Json:
        messages = [{"role": "user", "content": self._text(self._chance.randrange(60))}]
        asked = {"model": self._model(), "messages": messages, "max_tokens": 24}
        return {**asked, "seed": self._chance.randrange(10**6), **more}

    def _model(self) -> str:
        return self._chance.choice([self._base, *self._adapter_ids])

    def _text(self, num_words: int) -> str:
        return " ".join(str(self._chance.randrange(1000)) for _ in range(num_words + 1))

    async def _is_crowded(self) -> bool:
        """Whether what nobody uses any more leaves no room for a prompt that fills the context."""
        body: Json = {"model": self._base, "prompt": [self._chance.randrange(90) + 1] * 100_000}
        told = (await self._http.post("/v1/completions", json=body)).json()["error"]["message"]
        most = int(re.findall(r"\d+", told)[0])
        body |= {"prompt": [65] * (most - 1), "max_tokens": 1}
        return (await self._http.post("/v1/completions", json=body)).status_code != 200


def _beyond_budget(gauges: dict[tuple[str, str], float]) -> list[str]:
    found = [
        f"{gauges['luthier_serving_' + name, '']:.0f} {name}"
        for name in ("running", "waiting")
        if gauges["luthier_serving_" + name, ""]
    ]
    tier_bytes = "luthier_serving_adapter_tier_bytes"
    for (name, tier), size_bytes in gauges.items():
        budget = gauges.get(("luthier_serving_adapter_tier_budget_bytes", tier), 0)
        if name == tier_bytes and budget and size_bytes > budget:
            found.append(f"adapters of {size_bytes:.0f} bytes in {tier}, beyond its {budget:.0f}")
    return found


def _held(pid: int) -> dict[str, int]:
    """Of the server's process and those that it has started."""
    pids: list[int] = [pid, *_children(pid)]
    status = [Path(f"/proc/{one}/status").read_text() for one in pids]
    return {
        "processes": len(pids),
        "threads": sum(_field(text, "Threads") for text in status),
        "files": sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in pids),
        "bytes": _field(status[0], "VmRSS") * 1024,
        "bytes of compilers": sum(_field(text, "VmRSS") for text in status[1:]) * 1024,
    }


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        told = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for path in told for child in path.read_text().split()]
    return []


def _field(status: str, name: str) -> int:
    return int(re.findall(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[0])


def _grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    stored = max(0, after["bytes in stores"] - before["bytes in stores"])
    most = {"processes": 0, "threads": MORE_THREADS, "files": MORE_FILES}
    most |= {"bytes": MORE_BYTES + stored, "bytes of compilers": MORE_BYTES}
    return [
        f"{after[what] - before[what]} {what} more"
        for what, more in most.items()
        if after[what] > before[what] + more
    ]


if __name__ == "__main__":
    main()
