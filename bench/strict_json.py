"""What it costs to hold replies to a JSON schema: `python -m bench.strict_json`, and a part of `bench.serve`.

* 16 requests at once on the base, free and held to a schema, turn about: the share of the throughput that is retained,
  and processor time for each token;
* a schema of 200 properties that the server has never seen: until it is compiled, and until the first token, beside a
  free request's first token.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving import served_base
from serving.engine.constraints import Constraint
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Generate
from serving.grammars.source import GrammarSource
from serving.served_base import ServedBase
from serving.settings import ServingSettings
from storage.models.base_models import Catalogue

NUM_REQUESTS = 16
PROMPT_TOKENS = 64
NEW_TOKENS = 32
NUM_PROPERTIES = 200
FIRST_PLAIN_TOKEN = 1000
_serial = itertools.count()

# Nobody comes to its end here.
PEOPLE = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "mail": {"type": "string", "format": "email"},
            "roles": {"type": "array", "items": {"enum": ["reader", "writer", "owner"]}},
        },
        "required": ["name", "age", "mail", "roles"],
        "additionalProperties": False,
    },
}
KINDS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    {"type": "string", "format": "date-time"},
    {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    {"type": "array", "items": {"type": "number"}},
    {"enum": ["low", "middle", "high"]},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.strict_json", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--bases-dir", type=Path, default=Path(".luthier/bases"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(arguments.base)
    if base is None:
        parser.error(f"there is no base {arguments.base}")

    async def run(scratch: Path) -> dict[str, object]:
        served = await served_base.load(
            base,
            frozenset({base.id}),
            bases_dir=arguments.bases_dir,
            cache_dir=scratch,
            blobs=None,
            settings=ServingSettings(threads=arguments.threads),
        )
        try:
            return await measure(served, arguments.rounds)
        finally:
            await served.close()

    with TemporaryDirectory(prefix="bench-strict-json-") as scratch:
        print(json.dumps(asyncio.run(run(Path(scratch))), indent=1))


async def measure(served: ServedBase, num_rounds: int) -> dict[str, object]:
    """The first round of each warms up."""
    constraint = await served.grammars.compile(GrammarSource.json_schema(PEOPLE), "bench")
    walls: dict[bool, list[float]] = {False: [], True: []}
    cpus: dict[bool, list[float]] = {False: [], True: []}
    for is_held in [False, True] * (num_rounds + 1):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        held = constraint if is_held else None
        await asyncio.gather(*(_finish(served, held, NEW_TOKENS) for _ in range(NUM_REQUESTS)))
        walls[is_held].append(time.perf_counter() - wall_s)
        cpus[is_held].append(time.process_time() - cpu_s)
    free_s, held_s = (statistics.median(walls[is_held][1:]) for is_held in (False, True))
    free_cpu_s, held_cpu_s = (statistics.median(cpus[is_held][1:]) for is_held in (False, True))
    num_tokens = NUM_REQUESTS * NEW_TOKENS
    first = [await _first_use(served, number) for number in range(num_rounds + 1)][1:]
    return {
        "retention": f"{free_s / held_s:.3f} ({free_cpu_s / held_cpu_s:.3f} by processor time)",
        "ms of a processor for each token": round((held_cpu_s - free_cpu_s) / num_tokens * 1e3, 3),
        **{
            f"{what}, s": round(statistics.median(one[what] for one in first), 3)
            for what in first[0]
        },
    }


async def _first_use(served: ServedBase, number: int) -> dict[str, float]:
    chance = random.Random(number)
    names = [f"{chance.choice('abc')}_{number}_{i}" for i in range(NUM_PROPERTIES)]
    schema = {
        "type": "object",
        "properties": {name: chance.choice(KINDS) for name in names},
        "required": names,
        "additionalProperties": False,
    }
    began_s = time.perf_counter()
    constraint = await served.grammars.compile(GrammarSource.json_schema(schema), "bench")
    compiled_s = time.perf_counter()
    await _finish(served, constraint, 1)
    held_s = time.perf_counter()
    await _finish(served, None, 1)
    return {
        f"schema of {NUM_PROPERTIES} properties compiled": compiled_s - began_s,
        "its first token": held_s - began_s,
        "a free first token": time.perf_counter() - held_s,
    }


async def _finish(served: ServedBase, constraint: Constraint | None, num_tokens: int) -> None:
    chance = random.Random(next(_serial))
    never_ends = dict.fromkeys(served.tokenizer.stop_ids, -100.0)
    request = Generate(
        prompt=[chance.randrange(FIRST_PLAIN_TOKEN, 40_000) for _ in range(PROMPT_TOKENS)],
        max_tokens=num_tokens,
        sampling=replace(SamplingParams(temperature=0.0), logit_bias=never_ends),
        constraint=constraint,
        cache_salt="bench",
    )
    async for _ in served.thread.generate([request]):
        pass


if __name__ == "__main__":
    main()
