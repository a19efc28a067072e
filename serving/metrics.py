"""What Prometheus is told about an inference server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from serving.engine.engine import Engine
from serving.engine.sequence import Usage

from .adapters.cache import AdapterCache
from .grammars.grammars import Grammars
from .whole_models import WholeModels

TIME_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServingMetrics:
    """Counted here, or read from the engine when somebody asks."""

    def __init__(
        self,
        engine: Engine,
        adapters: AdapterCache[Any],
        whole_models: WholeModels,
        grammars: Grammars,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine, whole_models, grammars))
        self._registry.register(_TierCollector(engine, adapters))
        self.first_token_s = Histogram(
            "luthier_serving_first_token_seconds",
            "From a request's prompt to its first token",
            buckets=TIME_BUCKETS_S,
            registry=self._registry,
        )
        self._tokens = Counter(
            "luthier_serving_tokens",
            "Tokens of finished choices: read from prompts, of those reused, and generated",
            ["kind"],
            registry=self._registry,
        )

    def count_choice(self, usage: Usage) -> None:
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("generated").inc(usage.completion_tokens)

    def render(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, engine: Engine, whole_models: WholeModels, grammars: Grammars) -> None:
        self._engine = engine
        self._whole_models = whole_models
        self._grammars = grammars

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats()
        gauges = {
            "running": ("Choices in the batch", stats.num_running),
            "waiting": ("Choices in the queues", stats.num_waiting),
            "kv_used_ratio": (
                "Share of the key-value memory in use, kept prefixes included",
                stats.num_kv_tokens_used / stats.num_kv_tokens,
            ),
            "loaded_adapters": ("Adapters in slots", len(stats.loaded_adapter_ids)),
            "whole_models": (
                "Tuned models in memory that are bases of their own",
                len(self._whole_models.ids),
            ),
            "whole_model_bytes": ("Memory that they take", self._whole_models.size_bytes),
            "grammars": ("Compiled schemas and grammars", self._grammars.num_kept),
            "grammar_bytes": ("Memory that they take, at most", self._grammars.size_bytes),
        }
        for name, (documentation, value) in gauges.items():
            yield GaugeMetricFamily(f"luthier_serving_{name}", documentation, value=value)


class _TierCollector(Collector):
    """The places where adapters are kept, from the slots down to the blob store."""

    def __init__(self, engine: Engine, adapters: AdapterCache[Any]) -> None:
        self._engine = engine
        self._adapters = adapters

    def collect(self) -> Iterable[Metric]:
        slots, ram, disk = self._engine.slots, self._adapters, self._adapters.disk
        stocks = {
            "slots": (len(slots.loaded_ids), slots.size_bytes, slots.budget_bytes or 0),
            "ram": (len(ram.ids_in_ram), ram.size_bytes, ram.budget_bytes),
            "disk": (len(disk.ids), disk.size_bytes, disk.budget_bytes),
        }
        for number, (name, documentation) in enumerate(_STOCKS.items()):
            gauge = GaugeMetricFamily(f"{_TIER}_{name}", documentation, labels=["tier"])
            for tier, figures in stocks.items():
                gauge.add_metric([tier], figures[number])
            yield gauge
        counts = {
            "slots": slots.counts,
            "ram": ram.counts,
            "disk": disk.counts,
            "blob": disk.blob_counts,
        }
        for name, documentation in _EVENTS.items():
            counter = CounterMetricFamily(f"{_TIER}_{name}", documentation, labels=["tier"])
            for tier, each in counts.items():
                counter.add_metric([tier], getattr(each, f"num_{name}"))
            yield counter
        loads = SummaryMetricFamily(
            f"{_TIER}_load_seconds", "Loads from the place below", labels=["tier"]
        )
        for tier, each in counts.items():
            if tier != "blob":
                loads.add_metric([tier], each.num_loads, each.load_s)
        yield loads


_TIER = "luthier_serving_adapter_tier"
_STOCKS = {
    "entries": "Adapters that are there",
    "bytes": "What they take",
    "budget_bytes": "What they may take",
}
_EVENTS = {
    "hits": "Adapters that were asked for and there",
    "misses": "Adapters that were asked for and not there",
    "evictions": "Adapters that made room for others or were deleted",
}
