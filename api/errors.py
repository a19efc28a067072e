"""The one place where errors become replies, always in OpenAI's shape: `{"error": {message, type, …}}`."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException

from foundation.errors import InvalidRequest, LuthierError, NotFound, StorageFull, Unavailable
from foundation.invalid_parameters import explain as explain

RETRY_AFTER_S = 2
"""Told with each 429 and 503; clients of OpenAI wait that long and try again."""

log = structlog.get_logger()

SERVER_ERROR = (
    "The server had an error processing your request. Sorry about that! You can retry your "
    "request. If the error persists, give the operator of this server the id in the reply's "
    "header x-request-id."
)
STORAGE_DOWN = "The server cannot reach its storage at the moment. Please try again shortly."
DATABASE_DOWN = "The server cannot reach its database at the moment. Please try again shortly."


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    error: Error


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        400: "The request cannot be done as it stands.",
        401: "The API key is missing or wrong.",
        403: "The API key does not permit this.",
        404: "There is no such thing, or it is another project's.",
        408: "The body stopped coming.",
        413: "The body is too large.",
        429: "Too much of the kind is open or under way for this key or project.",
        500: "A fault of the server.",
        503: "Try again after `retry-after` seconds.",
        504: "The model did not answer in time.",
        507: "The server's storage is full.",
    }.items()
}
"""Replies that every route under /v1 may give; part of the OpenAPI document."""


def install(app: FastAPI) -> None:
    """Unhandled exceptions are not here: the outermost layer (`request_id`) answers those."""
    app.add_exception_handler(LuthierError, _on_luthier_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(DataError, _on_data_error)
    for unreachable in (OperationalError, InterfaceError, NoConnectionFree):
        app.add_exception_handler(unreachable, _on_database_down)


def reply(
    error: LuthierError, headers: dict[str, str] | None = None, *, request: Request | None = None
) -> JSONResponse:
    """`request`, where it is known: OpenAI's files service tells its errors a second time."""
    headers = {**(error.headers or {}), **(headers or {})}
    if error.status in (429, 503):
        headers.setdefault("retry-after", str(RETRY_AFTER_S))
    if error.status == 401:
        headers.setdefault("www-authenticate", "Bearer")
    body: dict[str, Any] = error.body()
    if request is not None and request.url.path.startswith("/v1/files"):
        body["detail"] = {"message": error.message, "code": error.code}
    return JSONResponse(body, error.status, headers)


def server_error() -> JSONResponse:
    """The reply to what nobody expected; it tells nothing of the inside."""
    return reply(LuthierError(SERVER_ERROR))


async def _on_luthier_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LuthierError)
    if error.status < 500 or (isinstance(error, Unavailable) and error.__cause__ is None):
        return reply(error, request=request)
    # Its text is for the operator: it tells of keys, paths and addresses.
    log.error("request.failed", error=str(error), kind=type(error).__name__, exc_info=error)
    if isinstance(error, StorageFull):
        return reply(StorageFull("The server's storage is full."))
    if isinstance(error, Unavailable):
        return reply(Unavailable(STORAGE_DOWN))
    return server_error()


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | ValidationError)
    return reply(explain(error.errors()), request=request)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    url = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return reply(NotFound(f"Invalid URL ({url})"), headers)
    if error.status_code == 405:
        text = f"Not allowed to {request.method} on {request.url.path}."
        return reply(InvalidRequest(text, status=405, code="method_not_supported"), headers)
    return reply(InvalidRequest(str(error.detail), status=error.status_code), headers)


async def _on_data_error(_: Request, error: Exception) -> JSONResponse:
    log.info("request.unstorable", kind=type(error).__name__)
    text = (
        "The request holds a value that cannot be stored or looked up, such as the character NUL."
    )
    return reply(InvalidRequest(text))


async def _on_database_down(_: Request, error: Exception) -> JSONResponse:
    log.error("database.unreachable", error=str(error))
    return reply(Unavailable(DATABASE_DOWN))
