"""An inference server that answers without a model, and can be told to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse


@dataclass
class FakeBackend:
    """`requests` are the bodies and headers that came, newest last."""

    name: str = "fake"
    requests: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)
    answer: Response | None = None
    """Given instead of a completion."""
    deltas: list[dict[str, Any]] | None = None
    """What a chat's reply consists of, instead of some words."""
    finish_reason: str = "stop"
    max_messages: int | None = None
    """A chat of more is too long."""
    judge: Callable[[str], dict[str, float]] | None = None
    """What labels of an input are how probable; of classifiers."""
    is_endless: bool = False
    """Replies never end."""
    cut: int | None = None
    """The stream is sent in pieces of this many bytes."""
    breaks_after: int | None = None
    """The connection breaks after this many events."""
    ends_after: int | None = None
    """It is closed in good order after so many."""
    is_frozen: bool = False
    """Nothing is answered, and what has been begun goes on."""
    is_unable_to_unload: bool = False
    unloaded: list[str] = field(default_factory=list)
    """Ids of adapters."""
    num_cancelled: int = 0
    num_signs_of_life: int = 0
    """Sent by endless streams that have nothing more to say."""

    def app(self) -> FastAPI:
        app = FastAPI()
        app.post("/v1/chat/completions", response_model=None)(self._complete)
        app.post("/v1/completions", response_model=None)(self._complete)
        app.post("/v1/luthier/classifications", response_model=None)(self._classify)
        app.get("/healthz")(self._healthz)
        app.get("/readyz")(self._healthz)
        app.delete("/v1/luthier/adapters/{adapter_id}", response_model=None)(self._unload)
        return app

    async def _healthz(self) -> dict[str, str]:
        await self._thaw()
        return {"status": "ok"}

    async def _thaw(self) -> None:
        while self.is_frozen:
            await asyncio.sleep(0.01)

    async def _unload(self, adapter_id: str) -> Response:
        if self.is_unable_to_unload:
            return Response(status_code=500)
        self.unloaded.append(adapter_id)
        return JSONResponse({})

    async def _complete(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        self.requests.append((body, dict(request.headers)))
        await self._thaw()
        if self.answer is not None:
            return self.answer
        if self.max_messages is not None and len(body["messages"]) > self.max_messages:
            return refusal("Too long.", "messages", "context_length_exceeded")
        if body.get("stream"):
            return StreamingResponse(self._stream(body), media_type="text/event-stream")
        if self.is_endless:
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            self.num_cancelled += 1
        return JSONResponse(self._completion(body))

    async def _classify(self, request: Request) -> Response:
        if self.judge is None:
            return await self._complete(request)
        body = orjson.loads(await request.body())
        self.requests.append((body, dict(request.headers)))
        data = [
            {"object": "classification", "index": index, "probabilities": self.judge(text)}
            for index, text in enumerate(body["input"])
        ]
        return JSONResponse(
            {"object": "list", "model": body["model"], "data": data, "usage": _usage(0)}
        )

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the stream of the same request says, as a whole."""
        content = "".join(self._words())
        message = {"role": "assistant", "content": content}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "text": content}],
            "usage": _usage(len(self._words())),
        }

    def _words(self) -> list[str]:
        return ["Hello", " from", f" {self.name}", " with", " ünicode"]

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        num_sent = 0
        try:
            async for piece in self._pieces(body):
                if num_sent == self.ends_after:
                    return
                num_sent += 1
                yield piece
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    async def _pieces(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        options = body.get("stream_options") or {}
        words = self._words()
        if self.deltas is not None:
            words = [delta.get("content") or "" for delta in self.deltas]
        sent = b""
        for index, word in enumerate(words):
            if index == self.breaks_after:
                raise ConnectionError("told to break")
            is_last = index == len(words) - 1
            choice = {
                "index": 0,
                "delta": self.deltas[index] if self.deltas is not None else {"content": word},
                "text": word,
                "finish_reason": self.finish_reason if is_last and not self.is_endless else None,
            }
            chunk = _chunk(body, [choice])
            if options.get("continuous_usage_stats"):
                chunk["usage"] = _usage(index + 1)
            event = b"data: " + orjson.dumps(chunk) + b"\n\n"
            if self.cut is None:
                yield event
            sent += event
        while self.is_endless:
            yield b": still here\n\n"
            self.num_signs_of_life += 1
            await asyncio.sleep(0.01)
        end = b"data: [DONE]\n\n"
        if options.get("include_usage"):
            usage = {**_chunk(body, []), "usage": _usage(len(words))}
            end = b"data: " + orjson.dumps(usage) + b"\n\n" + end
        sent += end
        if self.cut is None:
            yield end
            return
        for start in range(0, len(sent), self.cut):
            yield sent[start : start + self.cut]
            await asyncio.sleep(0)


def refusal(message: str, param: str, code: str) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=400)


def _chunk(body: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
        "choices": choices,
    }


def _usage(num_generated: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 3,
        "completion_tokens": num_generated,
        "total_tokens": 3 + num_generated,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
