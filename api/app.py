"""The api's app: HTTP in. Routes are in one file a resource; this one puts them together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI

from api.batches import batches
from api.files import files, upload_parts, uploads
from api.fine_tunes import fine_tunes
from api.fine_tuning import checkpoints as fine_tuning_checkpoints
from api.fine_tuning import events as fine_tuning_events
from api.fine_tuning import graders
from api.fine_tuning import jobs as fine_tuning_jobs
from api.fine_tuning import permissions as fine_tuning_permissions
from api.gateway import classifications, inference, moderations, stored_completions
from api.luthier import (
    aliases,
    forecasts,
    guard,
    lint,
    probes,
    reports,
    reproductions,
    series,
    sessions,
    signing_key,
)
from api.models import artifacts, exports, imports, models
from api.organization import admin_keys as organization_admin_keys
from api.organization import project_keys as organization_project_keys
from api.organization import projects as organization_projects
from api.organization import rate_limits as organization_rate_limits
from api.organization import service_accounts as organization_service_accounts
from api.organization import usage
from api.responses import conversations, responses
from api.webhooks import endpoints as webhook_endpoints
from dashboard import views
from foundation.settings import Settings
from storage.models.base_models import WatchedCatalogue

from . import errors, health, openapi
from .metrics import ApiMetrics
from .request_id import RequestId
from .wiring import wire

CLEANUP_S = 1.0


def create_app(settings: Settings) -> FastAPI:
    """Opens nothing but the catalogue: the database, the blobs and the backends are the lifespan's.

    Raises BadCatalogue.
    """
    metrics = ApiMetrics()
    bases = WatchedCatalogue(settings.data_dir, settings.aliases)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with wire(settings, metrics, bases) as wiring:
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
        artifacts,
        classifications,
        moderations,
        exports,
        imports,
        signing_key,
        aliases,
        guard,
        forecasts,
        lint,
        probes,
        reproductions,
        reports,
        series,
        sessions,
        models,
        batches,
        stored_completions,
        responses,
        conversations,
        usage,
        webhook_endpoints,
        organization_projects,
        organization_rate_limits,
        organization_service_accounts,
        organization_project_keys,
        organization_admin_keys,
    ):
        app.include_router(resource.router, responses=errors.DOCUMENTED)
    app.router.routes.extend(views.routes(app))
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


async def _let_requests_end(metrics: ApiMetrics) -> None:
    """The server has cancelled what was open; a broken-off upload still takes its bytes away."""
    with anyio.move_on_after(CLEANUP_S):
        while metrics.num_open:
            await anyio.sleep(0.01)
