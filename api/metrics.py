"""What Prometheus reads: requests by route, jobs by status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.jobs.jobs import ACTIVE, TERMINAL, JobRow

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"})


class ApiMetrics:
    """The figures of one app: each has a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "luthier_http_requests",
            "Requests by route template and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "luthier_http_request_duration_seconds",
            "From the request's head to the end of the reply.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._open = Gauge(
            "luthier_http_requests_open", "Requests being answered.", registry=self._registry
        )
        self.num_open = 0
        self._jobs = Gauge(
            "luthier_jobs", "Fine-tuning jobs by status.", ("status",), registry=self._registry
        )

    @contextmanager
    def open_request(self) -> Iterator[None]:
        self.num_open += 1
        self._open.set(self.num_open)
        try:
            yield
        finally:
            self.num_open -= 1
            self._open.set(self.num_open)

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        # A client may invent methods, and each label is a time series.
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(method, route).observe(duration_s)

    def set_jobs(self, counts: Mapping[str, int]) -> None:
        for status in (*ACTIVE, *TERMINAL):
            self._jobs.labels(status).set(counts.get(status, 0))

    def render(self) -> bytes:
        return generate_latest(self._registry)


def count_jobs(session: Session) -> dict[str, int]:
    """How many jobs of all projects there are, by status."""
    rows = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
    return {row[0]: row[1] for row in rows}
