"""How fast one base serves many adapters, against PEFT on the same model in the same run.

`python -m bench.serve` measures the engine on the default base, its setups in turn round by round, so
that what else the machine does strikes all alike:

* 16 requests at once, answered by the base, by 1, 4 and 8 adapters: tokens per second, and the share
  of the base's own speed that is retained;
* the same 16 requests with 8 adapters through PEFT as its documentation shows it: group the requests
  by adapter, `set_adapter`, `generate`;
* 60 requests that share a long prompt, as a few-shot evaluation sends them;
* a cold adapter's first token, and what its coming does to the streams of others;
* what it costs to hold replies to a JSON schema (`bench.strict_json`).

Further peers worth a place here: vLLM on the CPU in an environment of its own, LoRAX on a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import itertools
import json
import os
import platform
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# As `python -m serving` sets it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import peft
import torch

from bench import strict_json
from modeling.artifacts import lora
from modeling.artifacts.lora import AdapterConfig
from modeling.base import choose_precision, load_base
from serving import served_base
from serving.adapters.ref import AdapterRef
from serving.engine.kv.prefix import KvPrefix
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from serving.served_base import ServedBase
from serving.settings import ServingSettings
from storage.blobs.blobs import BlobStore, open_store
from storage.models.base_models import BaseModel, Catalogue

NUM_REQUESTS = 16
NUM_ADAPTERS = 8
PROMPT_TOKENS = 64
NEW_TOKENS = 32
RANK = 16
PREFILL_TOKENS = 1024
SHARED_PREFIX_TOKENS = 700
NUM_SHARING = 60
SHARING_PROMPT_TOKENS = 50
SHARING_NEW_TOKENS = 32
FIRST_PLAIN_TOKEN = 1000
_serial = itertools.count()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serve", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--bases-dir", type=Path, default=Path(".luthier/bases"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(arguments.base)
    if base is None:
        parser.error(f"there is no base {arguments.base}")
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as directory:
        settings = ServingSettings(threads=arguments.threads)
        results = asyncio.run(
            _measure(base, arguments.bases_dir, Path(directory), settings, arguments.rounds)
        )
    print(json.dumps({**_machine(), **results}, indent=1))


async def _measure(
    base: BaseModel, bases_dir: Path, scratch: Path, settings: ServingSettings, num_rounds: int
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
    path = bases_dir / base.id
    folders = [
        _write_adapter(path, scratch / f"adapter-{i}", seed=i) for i in range(NUM_ADAPTERS + 1)
    ]
    refs = [_upload(blobs, folder) for folder in folders]
    adapters = [await _loaded(served, ref) for ref in refs[:NUM_ADAPTERS]]
    peer = Peer(path, folders[:NUM_ADAPTERS])
    prompts = [_prompt(PROMPT_TOKENS, seed) for seed in range(NUM_REQUESTS)]
    setups: dict[str, Callable[[], Awaitable[None]]] = {
        "base only": lambda: _serve(served, prompts, [])
    }
    for n in (1, 4, 8):
        setups[f"{n} adapters"] = lambda n=n: _serve(served, prompts, adapters[:n])  # type: ignore[misc]
    setups["8 adapters, PEFT switching"] = lambda: asyncio.to_thread(peer.generate, prompts)
    times: dict[str, list[Time]] = {name: [] for name in setups}
    for name in [name for _ in range(num_rounds + 1) for name in setups]:
        times[name].append(await _time(setups[name]))
    # The first round warms up.
    medians = {name: Time.median(rounds[1:]) for name, rounds in times.items()}
    num_tokens = NUM_REQUESTS * NEW_TOKENS
    base_only, most, of_peer = (
        medians[name] for name in ("base only", "8 adapters", "8 adapters, PEFT switching")
    )
    results: dict[str, object] = {
        "tokens per second": {n: t.rate(num_tokens) for n, t in medians.items()},
        "retention": {str(n): base_only.over(medians[f"{n} adapters"]) for n in (1, 4, 8)},
        "times PEFT": of_peer.over(most),
        "prefill tokens per second": (await _time(lambda: _prefill(served))).rate(PREFILL_TOKENS),
        "60 requests sharing 700 tokens, seconds": str(await _time(lambda: _share_prefix(served))),
        "cold adapter": await _load_cold(served, refs[NUM_ADAPTERS]),
        "strict JSON": await strict_json.measure(served, num_rounds),
    }
    await served.close()
    return results


@dataclass(frozen=True)
class Time:
    """By the clock, and of the processors: the latter hardly depends on what else the machine does."""

    wall_s: float
    cpu_s: float

    @classmethod
    def median(cls, times: list[Time]) -> Time:
        walls, cpus = [t.wall_s for t in times], [t.cpu_s for t in times]
        return cls(statistics.median(walls), statistics.median(cpus))

    def rate(self, num_tokens: int) -> str:
        wall, cpu = num_tokens / self.wall_s, num_tokens / self.cpu_s
        return f"{wall:.1f} ({cpu:.1f} a processor second)"

    def over(self, other: Time) -> str:
        wall, cpu = self.wall_s / other.wall_s, self.cpu_s / other.cpu_s
        return f"{wall:.2f} ({cpu:.2f} by processor time)"

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} ({self.cpu_s:.1f} of the processors)"


async def _time(work: Callable[[], Awaitable[None]]) -> Time:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await work()
    return Time(time.perf_counter() - wall_s, time.process_time() - cpu_s)


class Peer:
    """PEFT, one adapter at a time."""

    def __init__(self, base_path: Path, folders: list[Path]) -> None:
        base = load_base(base_path, precision=choose_precision("auto"), attn_implementation="sdpa")
        self._model = peft.PeftModel.from_pretrained(base, folders[0], adapter_name=folders[0].name)
        for folder in folders[1:]:
            self._model.load_adapter(folder, adapter_name=folder.name)
        self._names = [folder.name for folder in folders]

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]]) -> None:
        """Answer all prompts, given to the adapters in turn."""
        for index, name in enumerate(self._names):
            self._model.set_adapter(name)
            input_ids = torch.tensor(prompts[index :: len(self._names)])
            self._model.generate(  # type: ignore[no-untyped-call]
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )


async def _serve(
    served: ServedBase, prompts: list[list[int]], adapters: list[Adapter | KvPrefix | None]
) -> None:
    """Answer all prompts at once, given to the adapters in turn."""
    # Nothing is reused from the round before.
    prompts = [[FIRST_PLAIN_TOKEN + next(_serial), *prompt[1:]] for prompt in prompts]
    await asyncio.gather(
        *(
            _finish(
                served,
                _request(
                    served,
                    prompt,
                    NEW_TOKENS,
                    adapters[i % len(adapters)] if adapters else None,
                ),
            )
            for i, prompt in enumerate(prompts)
        )
    )


async def _prefill(served: ServedBase) -> None:
    """Read a single long prompt."""
    await _finish(served, _request(served, _prompt(PREFILL_TOKENS, seed=99), 1))


async def _share_prefix(served: ServedBase) -> None:
    """The 60 requests of a few-shot evaluation, sent all at once."""
    prefix = _prompt(SHARED_PREFIX_TOKENS, seed=100)
    prompts = [[*prefix, *_prompt(SHARING_PROMPT_TOKENS, seed)] for seed in range(NUM_SHARING)]
    await asyncio.gather(
        *(_finish(served, _request(served, p, SHARING_NEW_TOKENS)) for p in prompts)
    )


async def _load_cold(served: ServedBase, ref: AdapterRef) -> dict[str, float]:
    """First token of an adapter from the blob store and once it is warm, while others generate; and the
    longest gap between two tokens of those others, in medians of their gaps."""
    request = _request(served, _prompt(PROMPT_TOKENS, seed=200), 200)
    arrivals_s: list[float] = []

    async def listen() -> None:
        async for _ in served.thread.generate([request]):
            arrivals_s.append(time.perf_counter())

    async def first_token(seed: int) -> float:
        started_s = time.perf_counter()
        adapter = await _loaded(served, ref)
        await _finish(served, _request(served, _prompt(8, seed), 1, adapter))
        return time.perf_counter() - started_s

    others = asyncio.create_task(listen())
    while len(arrivals_s) < 20:
        await asyncio.sleep(0.01)
    num_before = len(arrivals_s)
    cold_s = await first_token(seed=1)
    gaps_s = [b - a for a, b in itertools.pairwise(arrivals_s)]
    warm_s = await first_token(seed=2)
    others.cancel()
    return {
        "cold first token, s": round(cold_s, 3),
        "warm first token, s": round(warm_s, 3),
        "longest gap of others, medians": round(
            max(gaps_s[num_before - 1 :]) / statistics.median(gaps_s[:num_before]), 1
        ),
    }


async def _loaded(served: ServedBase, ref: AdapterRef) -> Adapter | KvPrefix | None:
    found = await served.find(ref.id, sha256=ref.sha256, size_bytes=ref.size_bytes)
    return found.adapter


async def _finish(served: ServedBase, request: Generate) -> None:
    async for _ in served.thread.generate([request]):
        pass


def _request(
    served: ServedBase,
    prompt: list[int],
    num_tokens: int,
    adapter: Adapter | KvPrefix | None = None,
) -> Generate:
    never_ends = dict.fromkeys(served.tokenizer.eos_ids, -100.0)
    return Generate(
        prompt=prompt,
        max_tokens=num_tokens,
        adapter=adapter,
        sampling=replace(SamplingParams(temperature=0.0), logit_bias=never_ends),
        cache_salt="bench",
    )


def _prompt(num_tokens: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(FIRST_PLAIN_TOKEN, 40_000) for _ in range(num_tokens)]


def _write_adapter(base_path: Path, folder: Path, seed: int) -> Path:
    """A random adapter on all linear layers."""
    from transformers import AutoConfig

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (num_out, num_in) in lora.linear_shapes(
        AutoConfig.from_pretrained(base_path)
    ).items():
        for side, shape in (("A", (RANK, num_in)), ("B", (num_out, RANK))):
            noise = torch.randn(shape, generator=generator) * 0.01
            tensors[f"base_model.model.{name}.lora_{side}.weight"] = noise
    config = AdapterConfig(rank=RANK, alpha=RANK, target_modules=lora.TARGET_MODULES)
    lora.save(folder, config, tensors)
    return folder


def _upload(blobs: BlobStore, folder: Path) -> AdapterRef:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for file in folder.iterdir():
            tar.add(file, arcname=file.name)
    data = content.getvalue()
    ref = AdapterRef(folder.name, hashlib.sha256(data).hexdigest(), len(data))
    with blobs.writer(ref.blob_key) as writer:
        writer.write(data)
        writer.commit()
    return ref


def _machine() -> dict[str, object]:
    return {
        "processors": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "precision": choose_precision("auto"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "peft": peft.__version__,
        },
    }


if __name__ == "__main__":
    main()
