"""What the tests of serving are made of: engines, adapters, and what PEFT says they should generate."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from modeling.artifacts import classifier, head, lora
from modeling.artifacts.lora import AdapterConfig
from modeling.base import load_base
from serving.adapters.ref import AdapterRef
from serving.admission import Admission
from serving.engine import attention
from serving.engine.engine import Engine
from serving.engine.failures import EngineError
from serving.engine.limits import Limits
from serving.engine.sampling import SamplingParams
from serving.engine.schedule import Scheduler, Work
from serving.engine.sequence import Delta, Generate, News, Pool, Usage
from serving.engine.slots.lora import Adapter
from serving.engine.slots.low_rank import LowRank
from serving.engine_thread import EngineThread
from serving.quotas import Quotas
from text.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0.0)
ALL_TARGETS = lora.TARGET_MODULES
TIMEOUT_S = 30.0


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """Token ids of plain bytes."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(0, 256, (length,), generator=generator).tolist()
    return ids


def load_model(base_path: Path, attn_implementation: str = attention.NAME) -> PreTrainedModel:
    return load_base(base_path, precision="fp32", attn_implementation=attn_implementation)


def make_engine(
    base_path: Path,
    tokenizer: Tokenizer,
    *,
    num_slots: int = 4,
    kv_tokens: int = 16384,
    max_seq_len: int = 2048,
    limits: Limits | None = None,
) -> Engine:
    return Engine(
        load_model(base_path),
        tokenizer,
        num_slots=num_slots,
        # 2 layers, keys and values, 2 heads of 16 numbers in fp32.
        kv_bytes=kv_tokens * 2 * 2 * 2 * 16 * 4,
        max_seq_len=max_seq_len,
        limits=limits,
    )


def greedy(
    prompt: list[int],
    *,
    max_tokens: int = 16,
    adapter: Adapter | None = None,
    cache_salt: str = "",
) -> Generate:
    return Generate(
        prompt=prompt,
        max_tokens=max_tokens,
        adapter=adapter,
        sampling=GREEDY,
        cache_salt=cache_salt,
    )


@dataclass(frozen=True)
class Choice:
    """What was generated, and the last that was heard of it."""

    ids: list[int]
    text: str
    last: Delta
    deltas: Sequence[Delta] = ()

    @classmethod
    def of(cls, deltas: Sequence[Delta]) -> Choice:
        ids = [token.token_id for delta in deltas for token in delta.tokens]
        return cls(ids, "".join(delta.text for delta in deltas), deltas[-1], deltas)

    @property
    def usage(self) -> Usage:
        assert self.last.usage is not None
        return self.last.usage


def outcomes(engine: Engine, requests: Iterable[Generate | Pool]) -> list[Choice | EngineError]:
    """What becomes of requests that come at the same time."""
    news: list[list[News]] = []
    for request in requests:
        news.append([])
        engine.submit(engine.prepare(request, news[-1].append))
    while not engine.is_idle:
        engine.step()
    found: list[Choice | EngineError] = []
    for of_one in news:
        deltas = [one for one in of_one if isinstance(one, Delta)]
        errors = [one for one in of_one if isinstance(one, EngineError)]
        found += errors or [Choice.of(deltas)]
    return found


def choices(engine: Engine, requests: Iterable[Generate | Pool]) -> list[Choice]:
    """As `outcomes`, where all requests are done."""
    found = []
    for outcome in outcomes(engine, requests):
        if isinstance(outcome, EngineError):
            raise outcome
        found.append(outcome)
    return found


def choice(engine: Engine, request: Generate | Pool) -> Choice:
    return Choice.of(list(engine.generate(request)))


@asynccontextmanager
async def running_thread(
    engine: Engine, quotas: Quotas | None = None
) -> AsyncIterator[EngineThread]:
    thread = EngineThread(engine, Admission(quotas or Quotas()))
    thread.start()
    try:
        yield thread
    finally:
        await thread.close()


async def generated(thread: EngineThread, *requests: Generate | Pool) -> list[Choice]:
    """What the thread makes of requests that come as one."""
    deltas: list[list[Delta]] = [[] for _ in requests]
    async with asyncio.timeout(TIMEOUT_S):
        async for index, delta in thread.generate(requests):
            deltas[index].append(delta)
    return [Choice.of(of_one) for of_one in deltas]


def write_adapter(
    base_path: Path,
    folder: Path,
    *,
    rank: int = 4,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    use_rslora: bool = False,
    seed: int = 1,
    base_model: str = "tiny-random",
) -> Path:
    """A random adapter, strong enough to change what the base says."""
    tensors = _random_pairs(base_path, rank, targets, seed)
    lora.save(
        folder,
        AdapterConfig(
            rank=rank,
            alpha=float(rank),
            target_modules=targets,
            base_model_name_or_path=base_model,
            use_rslora=use_rslora,
        ),
        tensors,
    )
    return folder


def write_classifier(base_path: Path, folder: Path, labels: list[str], *, seed: int = 1) -> Path:
    """Such an adapter, and a random row for each label."""
    tensors = _random_pairs(base_path, 4, ALL_TARGETS, seed)
    generator = torch.Generator().manual_seed(seed)
    hidden_size = load_model(base_path, "sdpa").config.hidden_size
    tensors[head.SCORE] = torch.randn(len(labels), hidden_size, generator=generator) / 4
    config = AdapterConfig(4, 4.0, ALL_TARGETS, "tiny-random")
    classifier.write(folder, classifier.artifact(config, tensors, labels))
    return folder


def _random_pairs(
    base_path: Path, rank: int, targets: tuple[str, ...], seed: int
) -> dict[str, Tensor]:
    config = load_model(base_path, "sdpa").config
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, (num_out, num_in) in lora.linear_shapes(config).items():
        if name.rpartition(".")[2] in targets:
            a = torch.randn(rank, num_in, generator=generator) / num_in**0.5
            b = torch.randn(num_out, rank, generator=generator) / rank**0.5
            tensors[lora.peft_name(name, "A")] = a
            tensors[lora.peft_name(name, "B")] = b
    return tensors


def read_adapter(base_path: Path, folder: Path, adapter_id: str) -> Adapter:
    config = load_model(base_path, "sdpa").config
    _, layers = lora.load(folder, config)
    shapes = lora.linear_shapes(config)
    return Adapter.from_layers(adapter_id, layers, shapes, torch.float32)


def huge(adapter: Adapter) -> Adapter:
    """An adapter whose output is not finite."""
    pairs = {
        name: LowRank(pair.a * 1e25, tuple(b * 1e25 for b in pair.bs))
        for name, pair in adapter.pairs.items()
    }
    return Adapter("adapter-huge", pairs)


def tar_of(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return content.getvalue()


def ref_of(adapter_id: str, content: bytes, kind: str = lora.KIND) -> AdapterRef:
    return AdapterRef(adapter_id, hashlib.sha256(content).hexdigest(), len(content), kind)


def expected_ids(
    base_path: Path, prompt: list[int], *, max_tokens: int = 16, adapter: Path | None = None
) -> list[int]:
    """What transformers (with PEFT) generates greedily, one request by itself; without the end token."""
    model = load_model(base_path, "sdpa")
    generator = model if adapter is None else PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        out = generator.generate(  # type: ignore[operator]
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=max_tokens,
            do_sample=False,
        )
    new: list[int] = out[0, len(prompt) :].tolist()
    eos_ids = {model.generation_config.eos_token_id}
    return [i for i in new if i not in eos_ids]


def one_step(scheduler: Scheduler) -> list[Work]:
    """A step without a model: every sequence that has read its prompt generates an "a"."""
    work = scheduler.plan()
    for item in work:
        is_last = item.is_last
        item.chunk.row.num_computed = item.chunk.end
        if is_last and item.sequence.accept(ord("a"), None):
            scheduler.places.remove(item.sequence)
    return work
