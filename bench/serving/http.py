"""Luthier's inference server and vLLM's, each in a process of its own, asked over HTTP by one client.

While one is asked, the other's processes stand still, so that neither pays for what the other does idly.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

from foundation.headers import ARTIFACT_BYTES, ARTIFACT_SHA256, CACHE_SALT
from modeling.base import Precision
from serving.adapters.ref import AdapterRef

from .load import FIRST_PLAIN_TOKEN, NEW_TOKENS, NUM_REQUESTS, PROMPT_TOKENS

READY_S = 600
ANSWER_S = 300
VLLM_KV_GIB = 1
LOG_CHARACTERS = 4000


class HttpServer:
    """A server of completions, and how its models are named in requests to it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: Path,
        url: str,
        base: str,
        headers: Mapping[str, Mapping[str, str]],
        body: Mapping[str, object],
    ) -> None:
        """`headers` by adapter; what `body` says is said in each request."""
        self._process = process
        self._log = log
        self._client = httpx.AsyncClient(base_url=url, timeout=ANSWER_S)
        self._base = base
        self._headers = headers
        self._body = body
        self._chance = random.Random(0)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def client(self) -> httpx.AsyncClient:
        return self._client

    def headers_of(self, model: str) -> Mapping[str, str]:
        """What a request to an adapter says of it besides; nothing for the base."""
        return self._headers.get(model, {})

    async def wait_until_ready(self, path: str) -> None:
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            with suppress(httpx.HTTPError):
                if (await self._client.get(path)).status_code == 200:
                    return
            await asyncio.sleep(0.5)
        raise RuntimeError(f"it does not answer:\n{self._log.read_text()[-LOG_CHARACTERS:]}")

    async def together(self, adapters: Sequence[str]) -> None:
        """16 completions at once, of the base or given to the adapters in turn."""
        self._signal(signal.SIGCONT)
        models = [adapters[i % len(adapters)] if adapters else None for i in range(NUM_REQUESTS)]
        await asyncio.gather(*map(self._ask, models))
        self._signal(signal.SIGSTOP)

    async def _ask(self, adapter: str | None) -> None:
        prompt = [self._chance.randrange(FIRST_PLAIN_TOKEN, 40_000) for _ in range(PROMPT_TOKENS)]
        answer = await self._client.post(
            "/v1/completions",
            headers=self._headers[adapter] if adapter else None,
            json={
                "model": adapter or self._base,
                "prompt": prompt,
                "max_tokens": NEW_TOKENS,
                "temperature": 0,
                **self._body,
            },
        )
        answer.raise_for_status()
        num_tokens = answer.json()["usage"]["completion_tokens"]
        if num_tokens != NEW_TOKENS:
            raise RuntimeError(f"{num_tokens} tokens came, not {NEW_TOKENS}")

    async def close(self) -> None:
        await self._client.aclose()
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, 20)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@asynccontextmanager
async def luthier(
    base: str, bases_dir: Path, scratch: Path, refs: Sequence[AdapterRef], eos_ids: Sequence[int]
) -> AsyncIterator[HttpServer]:
    port = _free_port()
    command = [sys.executable, "-m", "serving", "--base", base, "--port", str(port)]
    environment = {
        "LUTHIER_DATA_DIR": str(scratch / "luthier"),
        "LUTHIER_BASES_DIR": str(bases_dir.absolute()),
        "LUTHIER_BLOB_URL": f"file://{scratch}/blobs",
    }
    headers = {
        ref.id: {
            ARTIFACT_SHA256: ref.sha256,
            ARTIFACT_BYTES: str(ref.size_bytes),
            CACHE_SALT: "bench",
        }
        for ref in refs
    }
    body = {"logit_bias": {str(eos_id): -100 for eos_id in eos_ids}}
    log = scratch / "luthier.log"
    process = _start(command, environment, log)
    server = HttpServer(process, log, f"http://127.0.0.1:{port}", base, headers, body)
    try:
        await server.wait_until_ready("/readyz")
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def vllm(
    python: Path, base_path: Path, scratch: Path, folders: Sequence[Path], precision: Precision
) -> AsyncIterator[HttpServer]:
    port = _free_port()
    command = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"),
        *("--port", str(port), "--model", str(base_path), "--served-model-name", "base"),
        *("--dtype", "bfloat16" if precision == "bf16" else "float32"),
        *("--max-model-len", "2048", "--max-num-seqs", str(NUM_REQUESTS)),
        *("--enable-lora", "--max-loras", str(len(folders)), "--max-lora-rank", "16"),
        *("--lora-modules", *(f"{folder.name}={folder}" for folder in folders)),
    ]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(VLLM_KV_GIB),
        # Else it leaves a core to others.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(scratch),
    }
    log = scratch / "vllm.log"
    process = _start(command, environment, log)
    headers: dict[str, dict[str, str]] = {folder.name: {} for folder in folders}
    body = {"ignore_eos": True}
    server = HttpServer(process, log, f"http://127.0.0.1:{port}", "base", headers, body)
    try:
        await server.wait_until_ready("/health")
        yield server
    finally:
        await server.close()


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
