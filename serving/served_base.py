"""One base model being served: its tokenizer and template, its engine and the thread that drives it, its adapters on their way in."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from foundation.errors import InvalidRequest, LuthierError, ModelNotFound
from modeling.artifacts import classifier, lora, prefix
from modeling.artifacts import head as head_files
from modeling.base import choose_device, choose_precision, load_base
from modeling.importer import ensure_imported
from serving.engine import attention
from serving.engine.constraints import GrammarRefused, GrammarVocabulary
from serving.engine.engine import Engine
from serving.engine.failures import EngineError
from serving.engine.heads import Head, HeadedAdapter
from serving.engine.kv.prefix import KvPrefix
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Delta, Generate, Pool
from serving.engine.slots.lora import Adapter
from serving.engine.vocabulary import Vocabulary
from storage.blobs.blobs import BlobStore
from storage.models import strengths
from storage.models.base_models import BaseModel
from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer

from .adapters.cache import AdapterCache
from .adapters.disk import DiskTier
from .adapters.ref import AdapterRef, AdapterTooLarge, is_adapter_id
from .admission import Admission
from .engine_thread import EngineThread
from .grammars.grammars import Grammars
from .metrics import ServingMetrics
from .settings import ServingSettings
from .whole_models import KINDS as WHOLE_KINDS
from .whole_models import WholeModels

FORGET_INTERVAL_S = 600.0

log = logging.getLogger(__name__)


Loaded = Adapter | KvPrefix | HeadedAdapter
"""What of a tuned model lies on top of the base, in memory."""


@dataclass(frozen=True)
class ServedModel:
    """Who computes a model, and with what on top."""

    thread: EngineThread
    adapter: Adapter | KvPrefix | None = None
    head: Head | None = None
    """Of a model that says something about texts and writes none."""

    @classmethod
    def on(cls, thread: EngineThread, loaded: Loaded) -> ServedModel:
        if isinstance(loaded, HeadedAdapter):
            return cls(thread, loaded.adapter, loaded.head)
        return cls(thread, loaded)

    def at(self, strength: float) -> ServedModel:
        """Raises InvalidRequest for what has no strength."""
        if strength == 1:
            return self
        if self.head is not None or not isinstance(self.adapter, Adapter):
            raise InvalidRequest(
                "Only models of the kind 'lora' can be asked for at a strength.", param="model"
            )
        # Of nothing there is nothing to put into a slot.
        adapter = dataclasses.replace(self.adapter, strength=strength) if strength else None
        return ServedModel(self.thread, adapter)


@dataclass
class ServedBase:
    base: BaseModel
    names: frozenset[str]
    """What requests may call the base: its id and its aliases."""
    tokenizer: Tokenizer
    template: ChatTemplate
    vocabulary: Vocabulary
    engine: Engine
    thread: EngineThread
    adapters: AdapterCache[Loaded]
    whole_models: WholeModels
    grammars: Grammars
    metrics: ServingMetrics

    async def warm_up(self) -> None:
        """Generate a token, so that the first user does not pay for what happens only once."""
        prompt = self.tokenizer.encode_prompt("warm up")
        greedy = SamplingParams(temperature=0.0)
        request = Generate(prompt=prompt, max_tokens=1, sampling=greedy)
        async for _ in self.thread.generate([request]):
            pass

    async def find(
        self,
        model: str,
        *,
        sha256: str | None,
        size_bytes: int | None,
        kind: str = lora.KIND,
        project: str = "",
    ) -> ServedModel:
        """What `model` names, loaded if need be: the base, an artifact's id, or that with a strength.

        Raises `ModelNotFound`, `InvalidRequest`, and what `AdapterCache.get` and `WholeModels.get` raise.
        """
        if model in self.names:
            return ServedModel(self.thread)
        artifact_id, text = strengths.split(model)
        try:
            strength = 1.0 if text is None else strengths.parse(text)
        except ValueError:
            raise ModelNotFound(model) from None
        found = await self._find(artifact_id, sha256, size_bytes, kind, project)
        return found.at(strength)

    async def _find(
        self, model: str, sha256: str | None, size_bytes: int | None, kind: str, project: str
    ) -> ServedModel:
        if not is_adapter_id(model):
            raise ModelNotFound(model)
        if sha256 is not None and size_bytes is not None:
            ref = AdapterRef(model, sha256, size_bytes, kind)
            if kind in WHOLE_KINDS:
                return ServedModel(await self.whole_models.get(ref, project))
            return ServedModel.on(self.thread, await self.adapters.get(ref, project))
        if (loaded := self.adapters.peek(model, project)) is not None:
            return ServedModel.on(self.thread, loaded)
        if (whole := self.whole_models.peek(model, project)) is not None:
            return ServedModel(whole)
        raise ModelNotFound(model)

    async def prefetch(self, ref: AdapterRef) -> None:
        """Have an adapter in memory before anybody asks for it; of a larger model, the files on the disk."""
        if ref.kind in WHOLE_KINDS:
            await asyncio.to_thread(self.adapters.disk.read, ref, lambda _: None)
        else:
            await self.adapters.get(ref)

    async def unload(self, adapter_id: str) -> None:
        """Forget an adapter everywhere. Requests in progress that use it end with `ModelGone`."""
        await self.adapters.forget(adapter_id)
        await self.whole_models.unload(adapter_id)
        await self.thread.unload(adapter_id)

    async def forget_deleted(self) -> None:
        """Every few minutes, until cancelled: unload what was deleted while nobody could say so."""
        while True:
            try:
                elsewhere = [*self.whole_models.ids, *self.engine.slots.loaded_ids]
                for adapter_id in await self.adapters.deleted_ids(elsewhere):
                    log.info("%s was deleted", adapter_id)
                    await self.unload(adapter_id)
            except (LuthierError, EngineError) as error:
                log.warning("cannot look for deleted adapters: %s", error)
            await asyncio.sleep(FORGET_INTERVAL_S)

    def generate(
        self, thread: EngineThread, requests: Sequence[Generate | Pool]
    ) -> AsyncGenerator[tuple[int, Delta]]:
        """The deltas of several choices as they come, each with the index of its choice.

        Raises at once, not on the first delta, what `EngineThread.check_room` and `Engine.prepare` raise.
        """
        thread.check_room(requests[0].cache_salt, len(requests))
        return self._measured(thread.generate(requests))

    async def _measured(
        self, deltas: AsyncGenerator[tuple[int, Delta]]
    ) -> AsyncGenerator[tuple[int, Delta]]:
        started_s = time.perf_counter()
        is_first = True
        async with aclosing(deltas):
            async for index, delta in deltas:
                if is_first:
                    self.metrics.first_token_s.observe(time.perf_counter() - started_s)
                    is_first = False
                if delta.usage is not None:
                    self.metrics.count_choice(delta.usage)
                yield index, delta

    async def close(self) -> None:
        await self.whole_models.close()
        await self.thread.close()
        self.adapters.close()
        self.grammars.close()


async def load(
    base: BaseModel,
    names: frozenset[str],
    *,
    bases_dir: Path,
    cache_dir: Path,
    blobs: BlobStore | None,
    settings: ServingSettings,
) -> ServedBase:
    """Import the base if need be, load it, start its engine and generate a first token.

    Raises `ImportFailed`, `OSError` or `UnsupportedModel` for a base that cannot be served.
    """
    started_s = time.perf_counter()
    path, model = await asyncio.to_thread(_load_model, base, bases_dir, settings)
    template = ChatTemplate.load(path, document_end=base.document_end)
    shapes = lora.linear_shapes(model.config)

    slot_bytes = settings.adapter_slot_bytes_or_default()

    def from_layers(ref: AdapterRef, layers: lora.LoadedAdapter) -> Adapter:
        adapter = Adapter.from_layers(ref.id, layers, shapes, model.dtype)
        if adapter.size_bytes > slot_bytes:
            setting = "LUTHIER_SERVING_ADAPTER_SLOT_BYTES"
            raise AdapterTooLarge(ref.id, adapter.size_bytes, slot_bytes, setting)
        return adapter

    def parse(ref: AdapterRef, folder: Path) -> Loaded:
        made_for = {"base_model": base.id, "base_revision": base.revision}
        if ref.kind == prefix.KIND:
            artifact = prefix.read(folder, model.config, **made_for)
            return KvPrefix.from_artifact(ref.id, prefix.keys_values(artifact), model.dtype)
        if ref.kind == classifier.KIND:
            artifact = classifier.read(folder, model.config, **made_for)
            adapter = from_layers(ref, lora.layers(head_files.adapter_of(artifact)))
            weight = artifact.tensors[head_files.SCORE].to(model.device)
            return HeadedAdapter(adapter, Head(weight, tuple(artifact.spec["labels"])))
        _, layers = lora.load(folder, model.config, **made_for)
        return from_layers(ref, layers)

    engine = Engine(
        model,
        template.tokenizer,
        num_slots=settings.slots,
        kv_bytes=settings.kv_bytes_or_default(),
        max_seq_len=base.max_seq_len,
        slot_bytes=slot_bytes,
        limits=settings.limits,
    )
    admission = Admission(settings.quotas)
    thread = EngineThread(engine, admission)
    disk_bytes = settings.adapter_disk_bytes_or_default(cache_dir)
    adapters = AdapterCache(
        await asyncio.to_thread(DiskTier, blobs, cache_dir, budget_bytes=disk_bytes),
        parse,
        ram_bytes=settings.adapter_ram_bytes_or_default(),
        admission=admission,
    )
    whole_models = WholeModels(
        base,
        thread,
        template.tokenizer,
        adapters.disk,
        budget_bytes=settings.whole_model_bytes_or_default(),
        kv_bytes=settings.whole_model_kv_bytes,
        limits=settings.limits,
    )
    grammars = Grammars(
        await asyncio.to_thread(_grammar_vocabulary, path, engine.vocab_size, template.tokenizer)
    )
    served = ServedBase(
        base=base,
        names=names,
        tokenizer=template.tokenizer,
        template=template,
        vocabulary=Vocabulary.load(path),
        engine=engine,
        thread=thread,
        adapters=adapters,
        whole_models=whole_models,
        grammars=grammars,
        metrics=ServingMetrics(engine, adapters, whole_models, grammars),
    )
    served.thread.start()
    await served.warm_up()
    log.info("%s is ready after %.1f s", base.id, time.perf_counter() - started_s)
    return served


def _load_model(
    base: BaseModel, bases_dir: Path, settings: ServingSettings
) -> tuple[Path, PreTrainedModel]:
    path = ensure_imported(base, bases_dir)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = load_base(
        path,
        precision=choose_precision(settings.precision),
        attn_implementation=attention.NAME,
        device=choose_device(),
    )
    return path, model


def _grammar_vocabulary(
    path: Path, vocab_size: int, tokenizer: Tokenizer
) -> GrammarVocabulary | None:
    """None where replies cannot be held to a grammar."""
    try:
        return GrammarVocabulary(
            path / "tokenizer.json", vocab_size=vocab_size, stop_ids=tokenizer.stop_ids
        )
    except GrammarRefused as error:
        log.warning("replies of this base cannot be held to grammars: %s", error)
        return None
