"""An inference server on a loopback port, with clients and a view of its inside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import AsyncOpenAI, AsyncStream

from modeling.artifacts import lora
from serving import served_base
from serving.adapters.ref import AdapterRef
from serving.app import create_app
from serving.served_base import ServedBase
from serving.settings import ServingSettings
from storage.blobs.blobs import BlobStore, open_store
from storage.models.base_models import BaseModel
from tests.serving.parts import ref_of, tar_of, write_adapter

KEY = "sk-internal"
BASE = BaseModel("tiny-random", "builtin:tiny-random", "1", max_seq_len=2048)
SETTINGS = ServingSettings(kv_bytes=8 << 20, slots=2, whole_model_kv_bytes=1 << 20)
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
            "x-luthier-artifact-kind": ref.kind,
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
async def running_server(
    tmp_path: Path, settings: ServingSettings = SETTINGS
) -> AsyncIterator[Running]:
    blobs = open_store(f"file://{tmp_path}/blobs")
    found: list[ServedBase] = []

    async def load() -> ServedBase:
        served = await served_base.load(
            BASE,
            frozenset({BASE.id, "gpt-4o-mini"}),
            bases_dir=tmp_path / "bases",
            cache_dir=tmp_path / "cache",
            blobs=blobs,
            settings=settings,
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


def store_adapter(
    running: Running, base_path: Path, folder: Path, adapter_id: str, seed: int = 1
) -> AdapterRef:
    return store(running, write_adapter(base_path, folder, seed=seed), adapter_id)


def store(running: Running, folder: Path, adapter_id: str, kind: str = lora.KIND) -> AdapterRef:
    """What lies in the folder, as training publishes it."""
    content = tar_of(folder)
    ref = ref_of(adapter_id, content, kind)
    with running.blobs.writer(ref.blob_key) as writer:
        writer.write(content)
        writer.commit()
    return ref


async def read_to_end(stream: AsyncStream[Any]) -> None:
    async for _ in stream:
        """Whatever comes."""
