"""The api's app: HTTP in. Routes are in one file a resource; this one puts them together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI

from storage.settings import Settings

from . import (
    adapters,
    aliases,
    batches,
    errors,
    files,
    fine_tunes,
    fine_tuning_checkpoints,
    fine_tuning_events,
    fine_tuning_jobs,
    fine_tuning_permissions,
    graders,
    health,
    inference,
    models,
    openapi,
    organization_admin_keys,
    organization_project_keys,
    organization_projects,
    organization_service_accounts,
    stored_completions,
    upload_parts,
    uploads,
    usage,
    webhook_endpoints,
)
from .metrics import Metrics
from .request_id import RequestId
from .wiring import wire

CLEANUP_S = 1.0


def create_app(settings: Settings) -> FastAPI:
    """Opens nothing by itself: the database, the blobs and the backends are the lifespan's."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with wire(settings, metrics) as wiring:
            app.state.wiring = wiring
            yield
            await _let_requests_end(metrics)

    app = FastAPI(
        title="Luthier",
        description="A self-hosted fine-tuning service that speaks OpenAI's fine-tuning API.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    errors.install(app)
    app.add_middleware(RequestId, metrics=metrics)
    # In the order in which they are looked through: first what crowds ask for.
    app.include_router(health.router)
    for resource in (
        fine_tuning_events,
        inference,
        fine_tuning_jobs,
        files,
        uploads,
        upload_parts,
        fine_tuning_checkpoints,
        fine_tuning_permissions,
        fine_tunes,
        graders,
        adapters,
        aliases,
        models,
        batches,
        stored_completions,
        usage,
        webhook_endpoints,
        organization_projects,
        organization_service_accounts,
        organization_project_keys,
        organization_admin_keys,
    ):
        app.include_router(resource.router, responses=errors.DOCUMENTED)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


async def _let_requests_end(metrics: Metrics) -> None:
    """The server has cancelled what was open; a broken-off upload still takes its bytes away."""
    with anyio.move_on_after(CLEANUP_S):
        while metrics.num_open:
            await anyio.sleep(0.01)
