"""What a view asks of the API, in process, as the browser that wants to see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from starlette.requests import Request
from starlette.types import ASGIApp

Json = dict[str, Any]
Params = Mapping[str, str | int | Sequence[str]]

_PASSED_ON = ("cookie", "origin", "sec-fetch-site", "host", "user-agent")
"""What the API goes by to tell whose request it is, and from where."""
TIMEOUT_S = 30.0


class ApiRefused(Exception):
    """The API's answer was an error."""

    def __init__(self, reply: httpx.Response) -> None:
        self.status = reply.status_code
        self.request_id = reply.headers.get("x-request-id", "")
        try:
            error = reply.json()["error"]
            self.message = str(error["message"])
            self.code = error.get("code")
        except (ValueError, KeyError, TypeError):
            self.message, self.code = f"The server answered with status {self.status}.", None
        super().__init__(self.message)

    @property
    def is_sign_in_needed(self) -> bool:
        return self.status == 401


class ApiOfViewer:
    """The API for one request of a browser's."""

    def __init__(self, app: ASGIApp, request: Request) -> None:
        headers = {n: request.headers[n] for n in _PASSED_ON if n in request.headers}
        client = request.client
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(
                app, client=(client.host, client.port) if client else ("127.0.0.1", 0)
            ),
            # The cookie's name goes by scheme and port.
            base_url=f"{request.url.scheme}://{request.url.netloc}",
            headers=headers,
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    async def get(self, path: str, params: Params | None = None) -> Json:
        """The reply's JSON. Raises ApiRefused."""
        return _json(await self._http.get(path, params=dict(params or {})))

    async def post(self, path: str, body: Json | None = None) -> httpx.Response:
        """Raises ApiRefused."""
        return _checked(await self._http.post(path, json=body))

    async def delete(self, path: str) -> httpx.Response:
        """Raises ApiRefused."""
        return _checked(await self._http.delete(path))

    async def close(self) -> None:
        await self._http.aclose()


def _checked(reply: httpx.Response) -> httpx.Response:
    if reply.status_code >= 400:
        raise ApiRefused(reply)
    return reply


def _json(reply: httpx.Response) -> Json:
    found: Json = _checked(reply).json()
    return found
