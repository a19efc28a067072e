"""/healthz: the process answers. /readyz: everything that requests need answers. /metrics: Prometheus."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

import anyio
import httpx
import structlog
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import queue

from .database import FAILED, NoAnswer
from .metrics import count_jobs
from .wiring import Wired, Wiring

Check = Callable[[], Awaitable[None]]

log = structlog.get_logger()
router = APIRouter(tags=["health"])

CHECK_TIMEOUT_S = 2.0
REUSE_S = 1.0
"""How long a finding is reused: the page is open to all, and each look costs four servers a request."""


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    checks: dict[str, str]
    """`ok`, or what is wrong; the details are in the server's log."""


@router.get("/healthz")
async def healthz() -> Health:
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}}, response_model=Readiness)
async def readyz(request: Request, wiring: Wired) -> JSONResponse:
    found_at, readiness = getattr(request.app.state, "readiness", (0.0, None))
    if readiness is None or time.monotonic() - found_at > REUSE_S:
        was_ready = readiness is not None and readiness.status == "ready"
        # Starting is no news; ceasing to be ready is.
        readiness = await _check_all(wiring, log.warning if was_ready else log.info)
        request.app.state.readiness = (time.monotonic(), readiness)
    return JSONResponse(readiness.model_dump(), 200 if readiness.status == "ready" else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(wiring: Wired) -> Response:
    try:
        wiring.metrics.set_jobs(await wiring.database.run(count_jobs))
    except FAILED as error:
        # The other figures matter most when the database is away.
        log.warning("metrics.no_database", error=str(error))
    return Response(wiring.metrics.render(), media_type=CONTENT_TYPE_LATEST)


async def _check_all(wiring: Wiring, tell: Callable[..., None]) -> Readiness:
    checks: dict[str, Check] = {
        "database": partial(wiring.database.run, _touch),
        "broker": partial(_in_thread, queue.depth),
        "blobs": partial(_in_thread, lambda: next(wiring.blobs.list("ready/"), None)),
    }
    for base, urls in wiring.settings.backends.items():
        checks[f"inference of {base}"] = partial(_any_backend, wiring.http, urls)
    found: dict[str, str] = {}

    async def look(name: str, check: Check) -> None:
        found[name] = "not answering in time"
        try:
            with anyio.fail_after(CHECK_TIMEOUT_S):
                await check()
            found[name] = "ok"
        except (TimeoutError, NoAnswer):
            tell("readyz.timeout", check=name)
        except Exception as error:  # whatever a driver raises: that part is not ready
            tell("readyz.failed", check=name, error=str(error))
            found[name] = "not reachable"

    async with anyio.create_task_group() as group:
        for name, check in checks.items():
            group.start_soon(look, name, check)
    is_ready = all(finding == "ok" for finding in found.values())
    return Readiness(
        status="ready" if is_ready else "not ready", checks={name: found[name] for name in checks}
    )


def _touch(session: Session) -> None:
    session.execute(select(1))


async def _in_thread(function: Callable[[], object]) -> None:
    await run_sync(function, abandon_on_cancel=True)


async def _any_backend(http: httpx.AsyncClient, urls: tuple[str, ...]) -> None:
    """One server of a base is enough: the gateway goes round those that are down."""
    error: Exception | None = None
    for url in urls:
        try:
            reply = await http.get(f"{url}/readyz", timeout=CHECK_TIMEOUT_S / len(urls))
            reply.raise_for_status()
            return
        except httpx.HTTPError as failure:
            error = failure
    if error is not None:
        raise error
