"""The outermost layer: an id for each request, its line in the log, its place in the metrics.

It also answers exceptions that nothing else handled, because a reply must carry the id even then. Paths
are logged without their query, and neither keys nor bodies ever are.
"""

from __future__ import annotations

import secrets
import time

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import errors
from .metrics import ApiMetrics

log = structlog.get_logger()

OPENAI_VERSION = "2020-10-01"
_FIXED_HEADERS = (
    (b"openai-version", OPENAI_VERSION.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"access-control-expose-headers", b"X-Request-ID"),
)
UNLOGGED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines."""


class RequestId:
    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        with (
            self._metrics.open_request(),
            structlog.contextvars.bound_contextvars(request_id=answer.request_id),
        ):
            try:
                await self._app(scope, receive, answer.send)
            except ClientDisconnect:
                answer.is_disconnected = True
            except Exception as error:
                log.exception("request.crashed", error=str(error))
                if answer.status is not None:
                    # Too late to say it in words; the broken connection says it.
                    raise
                await errors.server_error()(scope, receive, answer.send)
            finally:
                self._record(scope, answer)

    def _record(self, scope: Scope, answer: _Answer) -> None:
        duration_s = time.perf_counter() - answer.began
        # 499 as nginx has it: the client went away before there was an answer.
        status = answer.status or (499 if answer.is_disconnected else 500)
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.observe(scope["method"], route, status, duration_s)
        if scope["path"] in UNLOGGED:
            return
        caller = scope.get("state", {}).get("caller")
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            duration_ms=round(duration_s * 1000, 1),
            disconnected=answer.is_disconnected,
            project_id=caller.project_id if caller else None,
            key_id=caller.key_id if caller else None,
        )


class _Answer:
    """Watches a reply go by and adds the headers that all have."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = f"req_{secrets.token_hex(16)}"
        self.began = time.perf_counter()
        self.status: int | None = None
        self.is_disconnected = False
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            duration_ms = round((time.perf_counter() - self.began) * 1000)
            headers = [
                *message["headers"],
                *_FIXED_HEADERS,
                (b"x-request-id", self.request_id.encode()),
                (b"openai-processing-ms", str(duration_ms).encode()),
            ]
            caller = self._scope.get("state", {}).get("caller")
            if caller and caller.project_id:
                headers.append((b"openai-organization", caller.organization_slug.encode()))
                headers.append((b"openai-project", caller.project_id.encode()))
            message = {**message, "headers": headers}
        await self._send(message)
