"""One request to an inference server: what is sent, and what becomes of the reply on its way back.

The user's name for the model is put back into it, its tokens are counted, and it is kept if the user
said so. The inference server is always asked for a stream with its usage at every chunk, so that what it
computed is counted also where nobody waits for the end; the client gets chunks or a whole, as it wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httpx
import orjson
import structlog

from api import errors
from api.wiring import Wiring
from foundation.errors import InvalidRequest, LuthierError, Unavailable
from storage.models import strengths
from storage.organization.api_keys import Caller

from . import entrance, event_stream, metering, rate_limits, stored_completions
from .assembled_completion import AssembledCompletion, AssembledText
from .rate_limits import Taken
from .stored_completions import Keeping
from .targets import Target

log = structlog.get_logger()

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
CLASSIFY_PATH = "/v1/luthier/classifications"

Json = dict[str, Any]


class Exchange:
    def __init__(
        self,
        wiring: Wiring,
        caller: Caller,
        target: Target,
        body: Json,
        *,
        path: str,
        request_id: str = "",
        is_batch: bool = False,
        is_limited: bool = True,
    ) -> None:
        """Raises InvalidRequest for what the gateway itself reads of the body.

        `is_limited`: it takes part in what a minute allows the project.
        """
        self.target = target
        self.is_streaming = body.get("stream") is True
        """The client wants the reply in chunks."""
        self._wiring = wiring
        self._caller = caller
        self._path = path
        self._request_id = request_id
        self._is_batch = is_batch
        # A batch waits for hours; it takes its turn instead.
        self._is_limited = is_limited and not is_batch
        options = body.get("stream_options")
        self._stream_options = options if isinstance(options, dict) else {}
        self._keeping = Keeping.of(body) if path == CHAT_PATH else None
        self._has_logprobs = body.get("logprobs") is True
        self._assembled = self._unassembled()
        self._usage: object = None
        self._content = self._content_of(body)
        self._likely_tokens = rate_limits.likely_tokens(body, len(self._content))
        self._taken: Taken | None = None

    async def send(self) -> httpx.Response:
        """The reply's head; a refusal for want of room is whole, and held back. Raises RateLimited, and what
        `Backends.send` raises. Called once: what was sent is not kept."""
        content, self._content = self._content, b""
        headers = dict(self.target.headers)
        if self._request_id:
            headers["x-request-id"] = self._request_id
        if self._is_limited:
            self._taken = await self._wiring.rate_limits.take(
                self._caller, self.target.name, self._likely_tokens
            )
        try:
            await self._admit()
            upstream = await self._wiring.backends.send(
                self.target.base_model, self.target.key, self._path, content, headers
            )
            if upstream.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                await _read_and_close(upstream)
                await entrance.hold_back()
        except BaseException:
            self._settle()
            raise
        return upstream

    def _unassembled(self) -> AssembledCompletion:
        """Nothing has come yet."""
        if self._path == CHAT_PATH:
            return AssembledCompletion(has_logprobs=self._has_logprobs)
        return AssembledText()

    async def _admit(self) -> None:
        """Raises LuthierError for a request that shall not be answered."""

    @property
    def headers(self) -> dict[str, str]:
        """What the reply says of the request besides its body."""
        # A name may hold any character, a header may not.
        model = self.target.canonical_name.encode("ascii", "replace").decode()
        return {"openai-model": model, **(self._taken.headers if self._taken else {})}

    def _content_of(self, body: Json) -> bytes:
        options = body.get("stream_options")
        changes: Json = {"model": self.target.wire_model}
        # What is malformed goes as it is: the inference server says what is wrong with it.
        if self._is_streamable(body) and isinstance(options, dict | None):
            usage = {"include_usage": True, "continuous_usage_stats": True}
            changes |= {"stream": True, "stream_options": {**(options or {}), **usage}}
        ours = ("store", "metadata") if self._path == CHAT_PATH else ()
        return orjson.dumps({k: v for k, v in body.items() if k not in ours} | changes)

    def _is_streamable(self, body: Json) -> bool:
        """Whether the reply can come in chunks: the best of several candidates is known at the end only.

        So of a reply that chooses among more than it shows nothing is known, or metered, before its end.
        """
        if self._path == CLASSIFY_PATH:
            return False
        best_of = body.get("best_of") if self._path == TEXT_PATH else None
        return self.is_streaming or (
            body.get("stream") in (None, False) and best_of in (None, 0, 1, body.get("n"))
        )

    async def whole(self, upstream: httpx.Response) -> Json:
        """The completion. Raises LuthierError, also for an error that the inference server answered.

        However it ends, what is known to have been computed for it counts.
        """
        try:
            value = await self._received(upstream)
            self._usage = value.get("usage")
        except BaseException:
            if self._usage is not None:
                self.close()
            self._settle()
            raise
        self.close()
        value = await self._shown(value)
        await self._keep(value)
        return value

    async def _shown(self, value: Json) -> Json:
        """What of a reply its user sees, and finds where it is kept."""
        return value

    async def _received(self, upstream: httpx.Response) -> Json:
        try:
            if event_stream.is_stream(upstream):
                return await self._assemble(upstream)
            await upstream.aread()
            return self._checked(upstream)
        except httpx.ReadTimeout as error:
            log.warning("backend.timeout", error=repr(error))
            raise Unavailable("The model did not answer in time.", status=504) from None
        except (httpx.TransportError, event_stream.EventTooLong) as error:
            log.warning("backend.reply_broke", error=repr(error))
            raise Unavailable(event_stream.BROKE) from None

    async def _assemble(self, upstream: httpx.Response) -> Json:
        async for event in event_stream.values(upstream):
            event = self._renamed(event)
            if "error" in event:
                error = event["error"]
                raise LuthierError(
                    **error if isinstance(error, dict) else {"message": event_stream.BROKE}
                )
            self._assembled.add(event)
            self._note(event)
        if not self._assembled.is_complete:
            log.warning("backend.reply_broke", error="the stream ended early")
            raise Unavailable(event_stream.BROKE)
        return self._assembled.body()

    def see(self, event: Json) -> Json | None:
        """A stream's event as the client gets it; None: not at all."""
        event = self._renamed(event)
        if "error" in event:
            return event
        if self._keeping is not None:
            self._assembled.add(event)
        self._note(event)
        wanted = self._stream_options
        if wanted.get("include_usage"):
            if event.get("choices") and not wanted.get("continuous_usage_stats"):
                event["usage"] = None
            return event
        is_only_usage = event.pop("usage", None) is not None and not event.get("choices")
        return None if is_only_usage else event

    def _note(self, event: Json) -> None:
        """What has been computed so far counts, whoever sees the rest."""
        if isinstance(event.get("usage"), dict):
            self._usage = event["usage"]

    async def all_seen(self) -> None:
        """The stream has come to its end: what is to be kept is kept before the client hears so."""
        if self._assembled.is_complete:
            await self._keep(self._assembled.body())

    def close(self) -> None:
        """Count what was used, however the exchange ended."""
        self._wiring.meter.count(
            self._caller, self.target.canonical_name, self._usage, is_batch=self._is_batch
        )
        self._settle()

    def _settle(self) -> None:
        """Once: give back what was taken of a minute's tokens and not used, or take the rest."""
        taken, self._taken = self._taken, None
        if taken is not None and taken.num_tokens:
            used = metering.read(self._usage)
            num_more = used.input_tokens + used.output_tokens - taken.num_tokens
            settling = self._wiring.rate_limits.settle(self._caller, num_more)
            self._wiring.background.start(settling)

    async def _keep(self, completion: Json) -> None:
        if self._keeping is None:
            return
        await self._wiring.database.run(
            stored_completions.keep,
            self._caller.project_id,
            completion=completion,
            keeping=self._keeping,
            request_id=self._request_id,
        )

    def _checked(self, upstream: httpx.Response) -> Json:
        try:
            value = orjson.loads(upstream.content)
        except orjson.JSONDecodeError:
            value = None
        status = upstream.status_code
        is_error = isinstance(value, dict) and isinstance(value.get("error"), dict)
        if status in (401, 403) or not isinstance(value, dict) or (status != 200 and not is_error):
            # The key that it refuses is the gateway's, and other answers are no inference server's.
            log.error("backend.misbehaved", status=status, body=upstream.text[:500])
            raise LuthierError(errors.SERVER_ERROR)
        value = self._renamed(value)
        # Luthier's own server says so of a model that was deleted meanwhile.
        is_gone = is_error and value["error"].get("code") == "model_not_found"
        if status == HTTPStatus.NOT_FOUND and self.target.is_dialled and not is_gone:
            raise InvalidRequest(
                f"The inference server of '{self.target.base_model}' knows no strengths, as vLLM does not: ask for "
                f"{strengths.split(self.target.canonical_name)[0]}, or have it served by Luthier's own.",
                param="model",
                code="strength_not_served",
            )
        if status != 200:
            raise Refused(value["error"], status, upstream.headers)
        return value

    def _renamed(self, value: Json) -> Json:
        """The value with the user's name for the model instead of the inference server's."""
        if "model" in value:
            value["model"] = self.target.name
        error = value.get("error")
        if isinstance(error, dict):
            message = str(error.get("message", ""))
            kept = {key: error.get(key) for key in ("type", "param", "code")}
            wire_model = self.target.wire_model
            for theirs in dict.fromkeys((wire_model, strengths.split(wire_model)[0])):
                message = message.replace(theirs, self.target.name)
            return {"error": {"message": message, **kept}}
        return value


async def _read_and_close(upstream: httpx.Response) -> None:
    """So that nothing stays open, whoever waits no longer."""
    try:
        await upstream.aread()
    except httpx.TransportError as error:
        log.warning("backend.reply_broke", error=repr(error))
        raise Unavailable(event_stream.BROKE) from None
    finally:
        await upstream.aclose()


class Refused(Unavailable):
    """An inference server's own error, for the user to read."""

    def __init__(self, error: Json, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(
            error["message"],
            status=status,
            type=error["type"],
            param=error["param"],
            code=error["code"],
        )
        if "retry-after" in headers:
            self.headers = {"retry-after": headers["retry-after"]}
