"""What a request can reach: database, blobs, inference servers, metrics. Made once, when the api starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, Request

from api.fine_tuning.event_feed import EventFeed
from api.fine_tuning.event_pages import EventPages
from api.fine_tuning.gather import Gather
from api.fine_tuning.stream_seats import StreamSeats
from api.gateway.backends import Backends
from api.gateway.entrance import Entrance
from api.gateway.metering import Meter
from api.gateway.rate_limits import RateLimits
from api.luthier.lint_runs import LintRuns
from foundation.settings import Settings
from foundation.vault import Vault
from storage import queue
from storage.blobs.blobs import BlobStore, open_store
from storage.models.base_models import Catalogue, WatchedCatalogue
from storage.organization import api_keys
from storage.organization.api_keys import Caller

from .background import Background
from .database import Database
from .metrics import ApiMetrics
from .requests.large_bodies import LargeBodies

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 600.0
"""Between two pieces of a reply; a long answer that is not streamed comes as one piece."""


@dataclass(frozen=True)
class Wiring:
    settings: Settings
    bases: WatchedCatalogue
    database: Database
    callers: Gather[str, Caller]
    """By their keys; see `auth`."""
    event_pages: EventPages
    event_feed: EventFeed
    stream_seats: StreamSeats
    blobs: BlobStore
    vault: Vault
    large_bodies: LargeBodies
    entrance: Entrance
    http: httpx.AsyncClient
    backends: Backends
    metrics: ApiMetrics
    meter: Meter
    background: Background
    rate_limits: RateLimits
    lint_runs: LintRuns

    def catalogue(self) -> Catalogue:
        """As it stands now: `luthier bases add` needs no restart."""
        return self.bases.now()


@asynccontextmanager
async def wire(
    settings: Settings, metrics: ApiMetrics, bases: WatchedCatalogue
) -> AsyncIterator[Wiring]:
    """Open everything; close it at the end. Connects to nothing yet, so it also starts in an outage."""
    queue.app.conf.broker_url = settings.broker_url
    database = Database(settings.database_url)
    event_feed = EventFeed(database)
    meter = Meter(database)
    http = httpx.AsyncClient(
        timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        # A proxy of the environment is meant for the world outside.
        trust_env=False,
    )
    backends = Backends(http, settings.backends, settings.internal_key)
    background = Background()
    rate_limits = RateLimits(
        settings.broker_url,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )
    running = [asyncio.create_task(meter.run()), asyncio.create_task(backends.watch())]
    try:
        yield Wiring(
            settings=settings,
            bases=bases,
            database=database,
            callers=Gather(lambda keys: database.read(api_keys.find_callers, keys)),
            event_pages=EventPages(database),
            event_feed=event_feed,
            stream_seats=StreamSeats(settings.streams_per_project),
            blobs=open_store(settings.blob_url),
            vault=settings.vault(),
            large_bodies=LargeBodies(),
            entrance=Entrance(),
            http=http,
            backends=backends,
            metrics=metrics,
            meter=meter,
            background=background,
            rate_limits=rate_limits,
            lint_runs=LintRuns(),
        )
    finally:
        await background.close()
        await event_feed.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await meter.flush()
        await rate_limits.close()
        await http.aclose()
        await database.close()


async def of_request(request: Request) -> Wiring:
    # Not awaiting anything, but FastAPI runs plain functions on a thread, at each request.
    wiring: Wiring = request.app.state.wiring
    return wiring


Wired = Annotated[Wiring, Depends(of_request)]
