"""Forecasts: what a job would take, and how such forecasts have held."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from openai import BaseModel

from .transfers import TransferError

if TYPE_CHECKING:
    from openai import OpenAI

PATH = "/luthier/forecasts"
PAGE_FORECASTS = 100
POLL_S = 0.5


class ForecastOutcome(BaseModel):
    status: str
    seconds: float | None = None
    steps: int | None = None
    tokens: int | None = None
    peak_memory_bytes: int | None = None
    is_counted: bool


class Forecast(BaseModel):
    id: str
    object: str
    created_at: int
    status: str
    """`in_progress`, `completed` or `failed`."""
    error: TransferError | None = None
    """What such a job would fail with."""
    fine_tuning_job_id: str | None = None
    model: str
    training_file: str
    validation_file: str | None = None
    method: str
    forecast: dict[str, Any] | None = None
    """`tokens`, `steps`, `seconds`, `memory`, `price`, `gain`, and a `text` that says it."""
    outcome: ForecastOutcome | None = None


class ForecastPage(BaseModel):
    data: list[Forecast]
    has_more: bool


class Calibration(BaseModel):
    nominal: float
    num_jobs: int
    num_inside: int
    coverage: dict[str, float] | None = None
    data: list[dict[str, Any]]


class Forecasts:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def create(self, *, model: str, training_file: str, **asked: Any) -> Forecast:
        """Of a job that would be created with these words. A large file's is in progress at first: see `wait`."""
        body = {"model": model, "training_file": training_file, **asked}
        return self._client.post(PATH, body=body, cast_to=Forecast)

    def retrieve(self, forecast_id: str) -> Forecast:
        return self._client.get(f"{PATH}/{quote(forecast_id, safe='')}", cast_to=Forecast)

    def wait(self, forecast: Forecast) -> Forecast:
        """Until it is made, or cannot be."""
        while forecast.status == "in_progress":
            time.sleep(POLL_S)
            forecast = self.retrieve(forecast.id)
        return forecast

    def list(self) -> Iterator[Forecast]:
        """All of the project's, those of its jobs among them, newest first."""
        after: dict[str, object] = {}
        while True:
            query = {"limit": PAGE_FORECASTS, **after}
            page = self._client.get(PATH, cast_to=ForecastPage, options={"params": query})
            yield from page.data
            if not page.has_more:
                return
            after = {"after": page.data[-1].id}

    def calibration(self) -> Calibration:
        """Over all projects of the server: how many jobs took as long as their forecasts said."""
        return self._client.get(f"{PATH}/calibration", cast_to=Calibration)
