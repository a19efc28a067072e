"""A streamed reply that is judged: the stream begins when the reply is there as a whole, and shows what may be shown of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import orjson

from foundation.errors import LuthierError

from . import event_stream
from .assembled_completion import AssembledCompletion, chunks

Json = dict[str, Any]


class JudgedStream(httpx.AsyncByteStream):
    """Stands for the stream of an inference server."""

    def __init__(
        self,
        upstream: httpx.Response,
        assembled: AssembledCompletion,
        note: Callable[[Json], None],
        shown: Callable[[Json], Awaitable[Json]],
    ) -> None:
        """`note` is told of every event as it comes; `shown` says what of the whole may be shown."""
        self._upstream, self._assembled = upstream, assembled
        self._note, self._shown = note, shown

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for event in event_stream.values(self._upstream):
            if "error" in event:
                yield _written(event)
                return
            self._note(event)
            self._assembled.add(event)
        try:
            if not self._assembled.is_complete:
                raise LuthierError(event_stream.BROKE)
            completion = await self._shown(self._assembled.body())
        except LuthierError as error:
            yield _written(error.body())
            return
        for chunk in chunks(completion):
            yield _written(chunk)
        yield b"data: " + event_stream.DONE + b"\n\n"

    async def aclose(self) -> None:
        await self._upstream.aclose()


def _written(event: Json) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
