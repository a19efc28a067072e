"""`python -m bench.churn --minutes 3`: ends with 1 and what it found if anything is left of what came and went."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# oneDNN keeps its kernels for 1,024 shapes of products, some 200 MB, and steps have ever new shapes for a long while.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

import httpx
import uvicorn

from serving import served_base
from serving.app import create_app
from serving.served_base import ServedBase
from serving.settings import ServingSettings
from storage.blobs.blobs import BlobStore, open_store
from storage.models.base_models import Catalogue

from .actions import Actions
from .artifacts import Publisher
from .leaks import Stock, beyond_budgets, grown, left_in_memory_for_keys_and_values, until_quiet

BASE = "tiny-random"
SETTINGS = ServingSettings(
    precision="fp32",
    slots=3,
    kv_bytes=4 << 20,
    # Room for a few of tiny-random's adapters, artifacts and models, so that they come and go.
    adapter_slot_bytes=300 << 10,
    adapter_ram_bytes=500 << 10,
    adapter_disk_bytes=1 << 20,
    whole_model_bytes=4 << 20,
    whole_model_kv_bytes=1 << 20,
)
GRAMMAR_BYTES = 32 << 20
NUM_PARTS = 4
NUM_CLIENTS = 12
MEAN_PAUSE_S = 0.02
MEMORY_BYTES = 64 << 20
"""That the process may have grown by in the second half: allocators keep some."""
KERNEL_BYTES = 256 << 20
"""And where oneDNN keeps as many kernels as it likes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.churn", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # Errors are wanted here, hundreds of them.
    logging.disable(logging.CRITICAL)
    found = asyncio.run(churn(60 * arguments.minutes, arguments.seed, memory_bytes=MEMORY_BYTES))
    print(json.dumps(found, indent=1))
    return 1 if found["problems"] else 0


async def churn(seconds: float, seed: int, *, memory_bytes: int = KERNEL_BYTES) -> dict[str, Any]:
    """What happened, and the problems: none, if all is well."""
    with tempfile.TemporaryDirectory(prefix="churn-") as name:
        folder, chance = Path(name), random.Random(seed)
        blobs = open_store(f"file://{folder}/blobs")
        async with _server(folder, blobs) as (url, served):
            publisher = Publisher(folder / "bases" / BASE, BASE, blobs, chance)
            async with httpx.AsyncClient(base_url=url, timeout=60, limits=_LIMITS) as http:
                actions = Actions(http, publisher, blobs, BASE, chance)
            found = await _measure(actions, served, url, seconds, chance)
        stocks: list[Stock] = found.pop("stocks")
        found["memory, MB"] = [round(stock.memory_bytes / 1e6) for stock in stocks]
        found["problems"] += grown(
            stocks[NUM_PARTS // 2 - 1], stocks[-1], memory_bytes=memory_bytes
        )
        return found


async def _measure(
    actions: Actions, served: ServedBase, url: str, seconds: float, chance: random.Random
) -> dict[str, Any]:
    problems: list[str] = []
    # What caches take is there after the first half; then nothing may come on top.
    served.grammars._budget_bytes = GRAMMAR_BYTES
    stocks: list[Stock] = []
    for _ in range(NUM_PARTS):
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=_LIMITS) as http:
            actions.http = http
            problems += await _run(actions, served, seconds / NUM_PARTS, chance)
            problems += await until_quiet(served)
            # So that both times the same models are in memory: none.
            for model_id in served.whole_models.ids:
                await served.whole_models.unload(model_id)
        await asyncio.sleep(0.3)  # The server sees that the connections are closed.
        stocks.append(Stock.take())
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        actions.http = http
        await actions.delete_all()
    problems += left_in_memory_for_keys_and_values(served)
    if left := [*served.adapters.ids_in_ram, *served.adapters.disk.ids]:
        problems.append(f"deleted and still there: {left}")
    counts = served.adapters.counts
    return {
        "outcomes": dict(sorted(actions.outcomes.items())),
        "evictions from RAM, disk, slots": [
            counts.num_evictions,
            served.adapters.disk.counts.num_evictions,
            served.engine.slots.counts.num_evictions,
        ],
        "steps": served.engine.stats().num_steps,
        "stocks": stocks,
        "problems": problems + actions.problems,
    }


async def _run(
    actions: Actions, served: ServedBase, seconds: float, chance: random.Random
) -> list[str]:
    """Clients come and go; gives where the server went beyond its budgets."""
    until_s = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until_s:
            await actions.one()
            await asyncio.sleep(chance.expovariate(1 / MEAN_PAUSE_S))

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    return [*await until_quiet(served), *beyond_budgets(served)]


_LIMITS = httpx.Limits(max_connections=None)


@asynccontextmanager
async def _server(folder: Path, blobs: BlobStore) -> AsyncIterator[tuple[str, ServedBase]]:
    base = Catalogue.load(None, {}).get(BASE)
    assert base is not None
    found: list[ServedBase] = []

    async def load() -> ServedBase:
        served = await served_base.load(
            base,
            frozenset({base.id}),
            bases_dir=folder / "bases",
            cache_dir=folder / "cache",
            blobs=blobs,
            settings=SETTINGS,
        )
        found.append(served)
        return served

    config = uvicorn.Config(create_app(load), log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server._serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        while not found and not task.done():
            await asyncio.sleep(0.02)
        try:
            yield url, found[0]
        finally:
            server.should_exit = True
            await task


if __name__ == "__main__":
    sys.exit(main())
