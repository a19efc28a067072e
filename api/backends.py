"""The inference servers: which of them gets a request, and which are known to be down.

Rendezvous hashing: each server has a score for a key, and the highest takes it. So an adapter stays on
one server's slots, and when a server comes or goes, only its own share moves.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import httpx
import structlog

from storage.errors import ModelNotServed, Unavailable

log = structlog.get_logger()

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
UNLOAD_TIMEOUT_S = 2.0
BUSY = frozenset({502, 503})
"""Replies that say "not me, not now": another server may do it."""


@dataclass
class _Failures:
    """Of one server, in a row."""

    count: int = 0
    avoided_until: float = 0.0


class Backends:
    def __init__(
        self,
        http: httpx.AsyncClient,
        urls: Mapping[str, tuple[str, ...]],
        internal_key: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._urls = urls
        self._headers = {"authorization": f"Bearer {internal_key}"} if internal_key else {}
        self._clock = clock
        self._failures = {url: _Failures() for group in urls.values() for url in group}

    def order(self, base_model: str, key: str) -> list[str]:
        """The base's servers as they should be tried; those known to be down come last."""
        now = self._clock()

        def rank(url: str) -> tuple[bool, bytes]:
            score = hashlib.blake2b(f"{url}\0{key}".encode(), digest_size=8).digest()
            return self._failures[url].avoided_until <= now, score

        return sorted(self._urls.get(base_model, ()), key=rank, reverse=True)

    async def send(
        self, base_model: str, key: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        """POST to the first server that takes it; the reply's body is not read yet.

        Raises ModelNotServed if the base has no server, Unavailable if none of them answers.
        """
        urls = self.order(base_model, key)
        if not urls:
            raise ModelNotServed(base_model, self._urls)
        for url in urls:
            try:
                reply = await self._post(url + path, content, headers)
            except httpx.ReadTimeout as error:
                # It has the request and works on it: a second server would do the same.
                log.warning("backend.timeout", url=url, error=repr(error))
                raise Unavailable("The model did not answer in time.", status=504) from None
            except httpx.TransportError as error:
                self._note_failure(url, error)
                continue
            self._failures[url] = _Failures()
            if reply.status_code in BUSY and url != urls[-1]:
                await reply.aclose()
                continue
            return reply
        raise Unavailable("The model is not being served at the moment. Please try again shortly.")

    async def unload(self, base_model: str, adapter_id: str) -> None:
        """Have the base's servers forget an adapter that was deleted. One that cannot be reached finds out
        by itself that the adapter's blob is gone."""

        async def ask(url: str) -> None:
            try:
                reply = await self._http.delete(
                    f"{url}/v1/luthier/adapters/{adapter_id}",
                    headers=self._headers,
                    timeout=UNLOAD_TIMEOUT_S,
                )
                reply.raise_for_status()
            except httpx.HTTPError as error:
                log.warning("backend.not_unloaded", url=url, adapter=adapter_id, error=repr(error))

        await asyncio.gather(*(ask(url) for url in self._urls.get(base_model, ())))

    async def _post(self, url: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        async def once() -> AsyncIterator[bytes]:
            yield content

        request = self._http.build_request(
            "POST",
            url,
            # Not the bytes themselves: httpx would keep them for as long as the reply takes.
            content=once(),
            # Events are cut out of the bytes as they come, so those must not be compressed.
            headers={
                "content-type": "application/json",
                "content-length": str(len(content)),
                "accept-encoding": "identity",
                **headers,
                **self._headers,
            },
        )
        return await self._http.send(request, stream=True)

    def _note_failure(self, url: str, error: httpx.TransportError) -> None:
        count = self._failures[url].count + 1
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (count - 1))
        self._failures[url] = _Failures(count, self._clock() + pause_s)
        log.warning("backend.failed", url=url, error=repr(error), avoided_for_s=pause_s)
