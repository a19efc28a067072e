"""Models that are bases of their own: fully tuned ones, and those whose output layers were.

Each has an engine, whose thread takes turns with the base's. One is loaded when it is first asked for, one after the other,
in turns by project and in a thread, and stays as long as there is memory. Of the project that takes most of that the least
recently used goes first, but none at work.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from transformers import PretrainedConfig

from foundation.errors import ModelNotFound, Unavailable
from modeling.artifacts import full, kinds, output_layers
from modeling.artifacts.artifact import Artifact
from serving.engine.derived import derive, own_bytes
from serving.engine.engine import Engine
from serving.engine.failures import EngineStopped, ModelGone
from serving.engine.limits import Limits
from storage.models.base_models import BaseModel
from text.tokenizer import Tokenizer

from .adapters.cache import MAX_WAIT_S
from .adapters.disk import DiskTier
from .adapters.ref import MIB, AdapterRef, NotLoadedInTime
from .engine_thread import EngineThread

R = TypeVar("R")

KINDS = frozenset({full.KIND, output_layers.KIND})

MIN_IDLE_S = 5.0
"""So long after it was last asked for, a model makes no room for another: the request that asked is on its way."""
LOOK_INTERVAL_S = 0.1

log = logging.getLogger(__name__)


class ModelTooLarge(Unavailable):
    """The model needs more memory than there is for such models together. Another server may have it."""


class NoRoom(Unavailable):
    """All the memory is taken by models at work."""


@dataclass
class WholeModel:
    id: str
    thread: EngineThread
    size_bytes: int
    project: str
    """Who asked for it last."""
    asked_for_s: float = field(default_factory=time.monotonic)

    @property
    def may_go(self) -> bool:
        is_on_its_way = time.monotonic() < self.asked_for_s + MIN_IDLE_S
        return not self.thread.is_alive or (self.thread.is_idle and not is_on_its_way)

    def note_asked(self, project: str) -> None:
        self.project, self.asked_for_s = project, time.monotonic()


class WholeModels:
    """Used on the event loop."""

    def __init__(
        self,
        base: BaseModel,
        base_thread: EngineThread,
        tokenizer: Tokenizer,
        disk: DiskTier,
        *,
        budget_bytes: int,
        kv_bytes: int,
        limits: Limits,
    ) -> None:
        self._base = base
        self._base_thread = base_thread
        self._tokenizer = tokenizer
        self._disk = disk
        self._budget_bytes = budget_bytes
        self._kv_bytes = kv_bytes
        self._limits = limits
        self._is_closing = False
        self._models: OrderedDict[str, WholeModel] = OrderedDict()
        self._loading: dict[AdapterRef, asyncio.Task[WholeModel]] = {}
        self._one_at_a_time = asyncio.Lock()
        # Of a project, one waits for its turn, so that they are in turns by project.
        self._one_of_project: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="model-loader")

    @property
    def ids(self) -> list[str]:
        return list(self._models)

    @property
    def size_bytes(self) -> int:
        return sum(model.size_bytes for model in self._models.values())

    def peek(self, model_id: str, project: str) -> EngineThread | None:
        """Whoever computes the model, if it is in memory."""
        model = self._models.get(model_id)
        if model is None or not model.thread.is_alive:
            return None
        self._models.move_to_end(model_id)
        model.note_asked(project)
        return model.thread

    async def get(self, ref: AdapterRef, project: str) -> EngineThread:
        """Whoever computes the model, loaded first if need be.

        Raises what `DiskTier.read` raises, and `Unavailable` if it cannot be loaded, or not in time.
        """
        thread = self.peek(ref.id, project)
        if thread is not None:
            return thread
        task = self._loading.get(ref)
        if task is None:
            task = asyncio.create_task(self._load(ref, project))
            self._loading[ref] = task
            task.add_done_callback(lambda _: self._loading.pop(ref, None))
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                # A client that goes away must not take the load away from the others who wait for it.
                model = await asyncio.shield(task)
        except TimeoutError:
            raise NotLoadedInTime(ref.id) from None
        except asyncio.CancelledError:
            if task.cancelled() and not self._is_closing:
                raise ModelNotFound(ref.id) from None
            raise
        model.note_asked(project)
        return model.thread

    async def unload(self, model_id: str) -> None:
        """A model was deleted: its requests end, and who waits for it to be loaded hears that it is gone."""
        for ref, task in list(self._loading.items()):
            if ref.id == model_id:
                task.cancel()
        # At once: while its requests end, nobody else finds it, be it to ask, to make room or to delete it again.
        model = self._models.pop(model_id, None)
        if model is not None:
            # An engine that has stopped has ended them already.
            with suppress(EngineStopped):
                await model.thread.end(ModelGone())
            await self._close(model)

    async def close(self) -> None:
        self._is_closing = True
        for task in list(self._loading.values()):
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        self._loader.shutdown(wait=False, cancel_futures=True)
        for model in self._models.values():
            await model.thread.close()

    async def _load(self, ref: AdapterRef, project: str) -> WholeModel:
        turn = self._one_of_project.setdefault(project, asyncio.Lock())
        async with turn, self._one_at_a_time:
            started_s = time.monotonic()
            if (broken := self._models.get(ref.id)) is not None:
                await self._remove(broken)
            artifact = await self._in_thread(lambda: self._disk.read(ref, self._parse(ref)))
            config = self._config_of(artifact)
            served = self._base_thread.engine.model
            size_bytes = own_bytes(served, config, artifact.tensors) + self._kv_bytes
            await self._make_room(ref, size_bytes, project)
            engine = await self._in_thread(lambda: self._build(artifact, config))
            thread = EngineThread(engine, self._base_thread.admission, self._base_thread.turns)
            thread.start()
            model = WholeModel(ref.id, thread, size_bytes, project)
            self._models[ref.id] = model
            log.info("%s is ready after %.1f s", ref.id, time.monotonic() - started_s)
            return model

    def _parse(self, ref: AdapterRef) -> Callable[[Path], Artifact]:
        base, config = self._base, self._base_thread.engine.model.config
        read = kinds.format_of(ref.kind).read
        return lambda folder: read(folder, config, base_model=base.id, base_revision=base.revision)

    def _config_of(self, artifact: Artifact) -> PretrainedConfig:
        base_config = self._base_thread.engine.model.config
        if artifact.kind == full.KIND:
            return full.config_of(artifact, base_config)
        return output_layers.untied(base_config, train_head=artifact.spec["train_head"])

    def _build(self, artifact: Artifact, config: PretrainedConfig) -> Engine:
        beside = self._base_thread.engine
        return Engine(
            derive(beside.model, config, artifact.tensors),
            self._tokenizer,
            num_slots=1,
            kv_bytes=self._kv_bytes,
            max_seq_len=self._base.max_seq_len,
            limits=self._limits,
            beside=beside,
        )

    async def _make_room(self, ref: AdapterRef, size_bytes: int, project: str) -> None:
        """Have models go until so much more fits. Raises `Unavailable`."""
        budget_mib, needed_mib = self._budget_bytes // MIB, -(-size_bytes // MIB)
        told = (
            f"The model {ref.id} needs {needed_mib} MiB of memory, of which the inference server has {budget_mib} "
            "MiB for models that are bases of their own (LUTHIER_SERVING_WHOLE_MODEL_BYTES)"
        )
        if size_bytes > self._budget_bytes:
            raise ModelTooLarge(f"{told}.", code="model_too_large")
        waits_until_s = time.monotonic() + MAX_WAIT_S
        while self.size_bytes + size_bytes > self._budget_bytes:
            going = self._next_to_go(project, size_bytes)
            if going is not None:
                await self._remove(going)
            elif time.monotonic() > waits_until_s:
                raise NoRoom(f"{told}; all of it is taken by models at work. Please try again.")
            else:
                await asyncio.sleep(LOOK_INTERVAL_S)

    def _next_to_go(self, project: str, size_bytes: int) -> WholeModel | None:
        """Of the project that would take most; the least recently used of those that may go."""
        taken = Counter({project: size_bytes})
        for model in self._models.values():
            taken[model.project] += model.size_bytes
        going = (model for model in self._models.values() if model.may_go)
        return max(going, key=lambda model: taken[model.project], default=None)

    async def _remove(self, model: WholeModel) -> None:
        del self._models[model.id]
        await self._close(model)
        log.info("%s has made room", model.id)

    async def _close(self, model: WholeModel) -> None:
        await model.thread.close()
        # Of the model nothing is left but cycles.
        await self._in_thread(gc.collect)

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)
