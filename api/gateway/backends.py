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

import anyio
import httpx
import structlog

from foundation.errors import ModelNotServed, Unavailable
from storage import schema

log = structlog.get_logger()

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
UNLOAD_TIMEOUT_S = 2.0
LOOK_INTERVAL_S = 2.0
LOOK_TIMEOUT_S = 5.0
MAX_UNANSWERED_LOOKS = 2
"""In a row. A server that answers no look lives, maybe, but takes no request for the time being."""
BUSY = frozenset({502, 503})
"""Replies that say "not me, not now": another server may do it."""


@dataclass
class _Failures:
    """The failures of one server, in a row."""

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
        self._headers = {schema.HEADER: schema.REVISION}
        if internal_key:
            self._headers["authorization"] = f"Bearer {internal_key}"
        self._clock = clock
        self._failures = {url: _Failures() for group in urls.values() for url in group}
        self._num_unanswered = dict.fromkeys(self._failures, 0)
        """Looks in a row, of each server."""
        self._waiting: dict[str, set[anyio.CancelScope]] = {url: set() for url in self._failures}
        """For the head of a server's reply."""

    async def watch(self) -> None:
        """Look after each server until cancelled, so that nobody waits for one that is frozen.

        One that cannot be reached is found out at once by the request that tries.
        """

        async def keep_looking(url: str) -> None:
            while True:
                await asyncio.sleep(LOOK_INTERVAL_S)
                await self._look(url)

        await asyncio.gather(*(keep_looking(url) for url in self._failures))

    async def _look(self, url: str) -> None:
        """Whether a server answers at all, whatever it answers."""
        was_silent = self._is_silent(url)
        try:
            await self._http.get(f"{url}/healthz", timeout=LOOK_TIMEOUT_S)
            self._num_unanswered[url] = 0
        except httpx.TimeoutException:
            self._num_unanswered[url] += 1
        except httpx.HTTPError:
            self._num_unanswered[url] = 0
        if self._is_silent(url) == was_silent:
            return
        log.warning("backend.answers_again" if was_silent else "backend.silent", url=url)
        if not was_silent:
            for scope in self._waiting[url]:
                scope.cancel()

    def _is_silent(self, url: str) -> bool:
        return self._num_unanswered[url] >= MAX_UNANSWERED_LOOKS

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

        A server that falls silent is not waited for, but a reply that has begun is nobody's to end: it
        may go on. Raises ModelNotServed if the base has no server, Unavailable if none of them answers.
        """
        urls = self.order(base_model, key)
        if not urls:
            raise ModelNotServed(base_model, self._urls)
        for url in urls:
            try:
                reply = await self._post_unless_silent(url, path, content, headers)
            except httpx.ReadTimeout as error:
                # It has the request and works on it: a second server would do the same.
                log.warning("backend.timeout", url=url, error=repr(error))
                raise Unavailable("The model did not answer in time.", status=504) from None
            except httpx.TransportError as error:
                self._note_failure(url, error)
                continue
            if reply is None:
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

    async def _post_unless_silent(
        self, url: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> httpx.Response | None:
        if self._is_silent(url):
            return None
        with anyio.CancelScope() as scope:
            self._waiting[url].add(scope)
            try:
                return await self._post(url + path, content, headers)
            finally:
                self._waiting[url].discard(scope)
        return None

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
