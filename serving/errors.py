"""Errors as OpenAI's clients expect them: `{"error": {message, type, param, code}}` and a fitting status."""

from __future__ import annotations

import logging

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from foundation.errors import InvalidRequest, LuthierError, NotFound
from foundation.invalid_parameters import explain

from .engine.failures import EngineError
from .engine_errors import in_openais_words
from .events import ClientGone

# What clients wait before they try again where we know no better.
RETRY_AFTER_S = 1
# nginx's "client closed request"; nobody is there to read it.
CLIENT_GONE_STATUS = 499

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    app.add_exception_handler(LuthierError, _on_luthier_error)
    app.add_exception_handler(EngineError, _on_engine_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, _on_bug)


def reply(error: LuthierError) -> Response:
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.status in (429, 503) else None
    return Response(orjson.dumps(error.body()), error.status, headers, "application/json")


async def _on_luthier_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, LuthierError)
    if error.status >= 500:
        log.error("a request failed: %s", error, exc_info=error.__cause__)
    return reply(error)


async def _on_engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return await _on_luthier_error(request, in_openais_words(error))


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return reply(explain(error.errors()))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return reply(NotFound(f"Invalid URL ({request.method} {request.url.path})"))
    return reply(InvalidRequest(str(error.detail), status=error.status_code))


async def _on_client_gone(_: Request, error: Exception) -> Response:
    assert isinstance(error, ClientGone)
    return Response(status_code=CLIENT_GONE_STATUS)


async def _on_bug(_: Request, error: Exception) -> Response:
    # The server logs the exception itself.
    assert isinstance(error, Exception)
    return reply(LuthierError("The server had an error while processing your request."))
