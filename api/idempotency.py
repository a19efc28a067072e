"""The header `Idempotency-Key`: a POST that is sent twice under one key creates one thing.

The first request's reply is kept for a day and given to those that repeat it; see
`storage.idempotency_keys`. Routes get this by their router's `route_class`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from api.files.multipart import boundary_of
from foundation.errors import InvalidRequest
from storage import idempotency_keys
from storage.idempotency_keys import Owner, StoredReply

from .auth import caller_of
from .database import FAILED
from .errors import ErrorReply
from .wiring import Wiring, of_request

HEADER = "idempotency-key"
MAX_KEY_LENGTH = 255
REPLAYED = "idempotent-replayed"
"""The header of a reply that was given before."""
RENEWAL_S = idempotency_keys.CLAIM.total_seconds() / 3

_DOCUMENTED: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": (
                "Made up by the client: a request that repeats one of the last 24 hours creates "
                f"nothing more and gets the first one's reply, with the header `{REPLAYED}`."
            ),
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
        }
    ]
}
_IN_USE = {
    "model": ErrorReply,
    "description": "A request with the same Idempotency-Key is being worked on.",
}

log = structlog.get_logger()

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class CreatesOnce(APIRoute):
    """A POST with an `Idempotency-Key` is done once."""

    shows_secret = False
    """Whether the reply holds a secret, which must not be kept."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            extra = options.get("openapi_extra") or {}
            options["openapi_extra"] = {**extra, **_DOCUMENTED}
            options["responses"] = {**(options.get("responses") or {}), 409: _IN_USE}
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def once(request: Request) -> Response:
            key = request.headers.get(HEADER)
            if request.method != "POST" or key is None:
                return await handler(request)
            return await _once(request, key, handler, shows_secret=self.shows_secret)

        return once


class CreatesSecretOnce(CreatesOnce):
    """Like `CreatesOnce`, but the secret in the reply is shown to the first request alone."""

    shows_secret = True


async def _once(request: Request, key: str, handler: Handler, *, shows_secret: bool) -> Response:
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise InvalidRequest(
            f"Invalid 'Idempotency-Key': it must have 1 to {MAX_KEY_LENGTH} characters.",
            param=HEADER,
        )
    wiring = await of_request(request)
    caller = await caller_of(request)
    owner = Owner(caller.project_id, caller.key_id, key)
    claimed = await wiring.database.run(idempotency_keys.claim, owner)
    body = _Body(request)
    if isinstance(claimed, StoredReply):
        return await _again(body, claimed)
    if claimed is None:
        raise InvalidRequest(
            "A request with this Idempotency-Key is still being worked on. Try again when it has "
            "been answered.",
            status=409,
            code="idempotency_key_in_use",
        )
    created = False
    try:
        async with _renewed(wiring, owner, claimed):
            response = await handler(Request(request.scope, body.receive))
            if response.status_code < 400:
                reply = StoredReply(
                    fingerprint=await body.fingerprint(),
                    body_bytes=body.num_bytes,
                    status=response.status_code,
                    content_type=response.headers["content-type"],
                    body=b"" if shows_secret else bytes(response.body),
                )
                created = True
                await wiring.database.run(idempotency_keys.keep, owner, claimed, reply)
    finally:
        if not created:
            # Also when the client has gone: its next try must find the key free.
            with anyio.CancelScope(shield=True):
                await wiring.database.run(idempotency_keys.release, owner, claimed)
    return response


async def _again(body: _Body, kept: StoredReply) -> Response:
    if await body.fingerprint(max_bytes=kept.body_bytes) != kept.fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was used for another request. Use a new key for each request "
            "that is not a repetition.",
            code="idempotency_key_reused",
        )
    if not kept.body:
        raise InvalidRequest(
            "The request with this Idempotency-Key has been done. Its reply held a secret, which is "
            "shown once and not kept: if it is lost, delete what was created and create it anew.",
            code="idempotency_key_reused",
        )
    headers = {"content-type": kept.content_type, REPLAYED: "true"}
    return Response(kept.body, kept.status, headers)


@asynccontextmanager
async def _renewed(wiring: Wiring, owner: Owner, claim: str) -> AsyncIterator[None]:
    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEWAL_S)
            try:
                await wiring.database.run(idempotency_keys.renew, owner, claim)
            except FAILED as error:
                # The claim outlasts a missed renewal or two.
                log.warning("idempotency_key.not_renewed", error=str(error))

    renewal = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewal.cancel()


class _Body:
    """The request's body, whose digest is taken as it goes by.

    A form's boundary is left out of it: clients make up a new one each time they send the same form.
    """

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._is_complete = False
        self.num_bytes = 0
        self._boundary = boundary_of(request.headers.get("content-type", ""))
        self._pending = b""
        """What might be the beginning of a boundary."""
        self._digest = hashlib.sha256()
        target = f"{request.method} {request.url.path}?{request.url.query}\n"
        self._digest.update(target.encode())

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._is_complete = not message.get("more_body", False)
            self._feed(message.get("body", b""))
        return message

    async def fingerprint(self, max_bytes: int | None = None) -> str:
        """A digest of the whole request; it need not be read beyond `max_bytes` to be another one."""
        while not self._is_complete and (max_bytes is None or self.num_bytes <= max_bytes):
            message = await self.receive()
            if message["type"] == "http.disconnect":
                break
        return self._digest.hexdigest()

    def _feed(self, data: bytes) -> None:
        if self._boundary:
            data = (self._pending + data).replace(self._boundary, b"")
            num_pending = 0 if self._is_complete else min(len(self._boundary) - 1, len(data))
            end = len(data) - num_pending
            data, self._pending = data[:end], data[end:]
        self.num_bytes += len(data)
        self._digest.update(data)
