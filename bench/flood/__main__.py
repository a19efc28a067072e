"""`python -m bench.flood`: one project sends 500 requests at once, another asks now and then.

Measured at the engine's thread of the default base, as an inference server drives it: the other project's wait for its first
token, quiet and flooded, in seconds and in steps of the engine; the flood goes to the base, to a few adapters, and to more
adapters than there are slots. The worst wait should stay under twice the worst quiet one and one step.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from bench.churn.artifacts import Publisher
from modeling.artifacts import lora
from serving import served_base
from serving.adapters.ref import AdapterRef
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Generate
from serving.served_base import ServedBase
from serving.settings import ServingSettings
from storage.blobs.blobs import BlobStore, open_store
from storage.models.base_models import BaseModel, Catalogue

NUM_REQUESTS = 500
PROMPT_TOKENS = 64
NEW_TOKENS = 64
CHAT_PROMPT_TOKENS = 32
NUM_CHATS = 12
NUM_ADAPTERS = (0, 4, 32)
PAUSE_S = 0.2
FIRST_PLAIN_TOKEN = 1000
_serial = itertools.count()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--bases-dir", type=Path, default=Path(".luthier/bases"))
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS)
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(arguments.base)
    if base is None:
        parser.error(f"there is no base {arguments.base}")
    settings = ServingSettings(threads=arguments.threads)
    with tempfile.TemporaryDirectory(prefix="bench-flood-") as folder:
        found = asyncio.run(
            measure(base, arguments.bases_dir, Path(folder), settings, arguments.requests)
        )
    print(json.dumps({"load before": round(os.getloadavg()[0], 1), **found}, indent=1))


@dataclass(frozen=True)
class Wait:
    """For a first token."""

    seconds: float
    steps: int
    """Of the engine, the one that was under way among them."""


async def measure(
    base: BaseModel, bases_dir: Path, scratch: Path, settings: ServingSettings, num_requests: int
) -> dict[str, object]:
    blobs = open_store(f"file://{scratch}/blobs")
    served = await served_base.load(
        base,
        frozenset({base.id}),
        bases_dir=bases_dir,
        cache_dir=scratch / "cache",
        blobs=blobs,
        settings=settings,
    )
    own = _publish(bases_dir, base, blobs, 1)
    quiet = await _chats(served, own[0])
    results: dict[str, object] = {"quiet": _told(quiet)}
    for num_adapters in NUM_ADAPTERS:
        theirs = _publish(bases_dir, base, blobs, num_adapters, first=1)
        flood = [
            asyncio.create_task(_flood_one(served, theirs[i % num_adapters] if theirs else None))
            for i in range(num_requests)
        ]
        while served.engine.stats().num_running < min(16, num_requests):
            await asyncio.sleep(0.05)
        began_s, num_before = time.perf_counter(), served.engine.stats().num_steps
        waits = await _chats(served, own[0])
        step_s = (time.perf_counter() - began_s) / (served.engine.stats().num_steps - num_before)
        worst = max(wait.seconds for wait in waits)
        most = 2 * max(wait.seconds for wait in quiet) + step_s
        results[f"flood over {num_adapters} adapters"] = {
            **_told(waits),
            "a step, s": round(step_s, 3),
            "met": f"{worst:.3f} of {most:.3f} s: {'yes' if worst <= most else 'no'}",
            "still open of the flood": sum(not task.done() for task in flood),
        }
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
    await served.close()
    return results


async def _chats(served: ServedBase, ref: AdapterRef) -> list[Wait]:
    """One after the other, of the base and of an adapter in turn. The first two warm up."""
    waits: list[Wait] = []
    for number in range(NUM_CHATS + 2):
        began_s, num_before = time.perf_counter(), served.engine.stats().num_steps
        request = await _request(
            served, "other", ref if number % 2 else None, CHAT_PROMPT_TOKENS, 8
        )
        async for _ in served.thread.generate([request]):
            if len(waits) <= number:
                steps = served.engine.stats().num_steps - num_before
                waits.append(Wait(time.perf_counter() - began_s, steps))
        await asyncio.sleep(PAUSE_S)
    return waits[2:]


async def _flood_one(served: ServedBase, ref: AdapterRef | None) -> None:
    request = await _request(served, "flood", ref, PROMPT_TOKENS, NEW_TOKENS)
    async for _ in served.thread.generate([request]):
        """On and on."""


async def _request(
    served: ServedBase, project: str, ref: AdapterRef | None, num_tokens: int, num_new: int
) -> Generate:
    chance = random.Random(next(_serial))
    adapter = None
    if ref is not None:
        found = await served.find(
            ref.id, sha256=ref.sha256, size_bytes=ref.size_bytes, project=project
        )
        adapter = found.adapter
    never_ends = dict.fromkeys(served.tokenizer.eos_ids, -100.0)
    most = served.engine.vocab_size
    return Generate(
        prompt=[
            chance.randrange(min(FIRST_PLAIN_TOKEN, most // 2), min(40_000, most))
            for _ in range(num_tokens)
        ],
        max_tokens=num_new,
        adapter=adapter,
        sampling=replace(SamplingParams(temperature=0.0), logit_bias=never_ends),
        cache_salt=project,
    )


def _publish(
    bases_dir: Path, base: BaseModel, blobs: BlobStore, number: int, first: int = 0
) -> list[AdapterRef]:
    if not number:
        return []
    publisher = Publisher(bases_dir / base.id, base.id, blobs, random.Random(first), first=first)
    return [publisher.publish(lora.KIND) for _ in range(number)]


def _told(waits: Sequence[Wait]) -> dict[str, object]:
    seconds = [wait.seconds for wait in waits]
    return {
        "first token, median and worst, s": [
            round(statistics.median(seconds), 3),
            round(max(seconds), 3),
        ],
        "steps to it, at most": max(wait.steps for wait in waits),
    }


if __name__ == "__main__":
    main()
