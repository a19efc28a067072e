"""An HTTP connection that cannot be held for nothing: uvicorn's, with times and sizes.

A head comes in time and is no longer than it may be; a body keeps coming; an answer is read; and there
are no more connections than the process can hold. What is too slow or too large is answered in OpenAI's
shape where an answer can still be given, and closed. One sweep a second looks at all connections, so a
request costs no timer.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from .connection_limits import ConnectionLimits, ConnectionTable
from .errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

CALLER = "caller"
"""A request whose scope's state holds this has shown a valid key."""
RETRY_AFTER_S = 1
MAX_PIPELINED = 16
"""Requests that came before the one before them was answered. These are answered, and more are not taken."""
OVERHEAD = 8
"""Bytes that may come beside each byte of a body: chunks have sizes."""


class Phase(Enum):
    """What the client owes."""

    HEAD = "the head of a request"
    BODY = "the rest of a body"
    NOTHING = "nothing: it waits for an answer"


class HttpConnection(HttpToolsProtocol):
    table: ClassVar[ConnectionTable[HttpConnection]]
    """Of the server; see `connections`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = self.table.limits
        self._has_carried_key = False
        self._answering: RequestResponseCycle | None = None
        """What the application is at, while `cycle` is what came last."""
        self._is_full = False
        """As many requests wait as may. They are answered, and what comes behind them is passed over."""
        self._phase = Phase.HEAD
        self._since_s = self.loop.time()
        """When the phase began; of a body, its window."""
        self._num_spare_bytes = 0
        """Came since the last request's end and are of no body."""
        self._num_body_bytes = 0
        """Came in this window."""
        self._answered_at_s: float | None = None
        """The answer was complete before the body was."""
        self._write_paused_at_s: float | None = None
        self._closing_at_s: float | None = None

    # What the table asks.

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_known(self) -> bool:
        if not self._has_carried_key and self._answering is not None:
            self._has_carried_key = CALLER in self._answering.scope.get("state", {})
        return self._has_carried_key

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        self.transport.abort()

    def check(self, now_s: float) -> None:
        """Called at each sweep: end what lasts too long."""
        limits = self.limits
        if self.transport.is_closing():
            # What is closed is first written to its end, which takes a reader.
            self._closing_at_s = self._closing_at_s or now_s
            if now_s - self._closing_at_s > limits.write_timeout_s:
                self.drop()
        elif self._write_paused_at_s is not None:
            if now_s - self._write_paused_at_s > limits.write_timeout_s:
                self.drop()
        elif self._phase is Phase.HEAD:
            if now_s - self._since_s > limits.head_timeout_s:
                self._end_late_head()
        elif self._phase is Phase.BODY:
            self._check_pace(now_s)

    def _end_late_head(self) -> None:
        if self._num_spare_bytes:
            self._refuse(
                f"The request's headers did not come within {self.limits.head_timeout_s:g} seconds.",
                408,
            )
        else:
            self.transport.close()

    def _check_pace(self, now_s: float) -> None:
        limits, cycle = self.limits, self.cycle
        if self._answered_at_s is not None:
            if now_s - self._answered_at_s > limits.linger_s:
                self.transport.close()
        elif self.flow.read_paused or cycle.waiting_for_100_continue:
            # It is not the client that is waited for.
            self._enter(Phase.BODY)
        elif now_s - self._since_s > limits.body_window_s:
            if self._num_body_bytes < limits.min_body_bytes:
                self._refuse(
                    f"The request's body came too slowly: less than {limits.min_body_bytes} bytes in "
                    f"{limits.body_window_s:g} seconds. Send it again.",
                    408,
                )
            else:
                self._enter(Phase.BODY)

    # What the transport and the parser tell.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.table.add(self):
            self._sweep_later()
        else:
            self._refuse("Too many connections are open. Please try again shortly.", 503)

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.remove(self)
        if self._answering is not None and not self._answering.response_complete:
            # uvicorn tells what came last only.
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._takes_no_more:
            return
        self._num_spare_bytes += len(data)
        super().data_received(data)
        if self._num_spare_bytes > self.limits.max_head_bytes and not self._takes_no_more:
            self._refuse_head()

    def on_message_begin(self) -> None:
        if self._takes_no_more:
            return
        super().on_message_begin()
        self._enter(Phase.HEAD)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Behind a body there may be more of them, which nobody asks for.
        if self._phase is Phase.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._takes_no_more:
            return
        # The request before may have shown a key, and this one need not.
        self._has_carried_key = self.is_known
        if self._is_head_too_large():
            self._refuse_head()
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._is_full = True
            self.cycle.keep_alive = False
            self._enter(Phase.NOTHING)
            return
        self._enter(Phase.BODY)
        self._answered_at_s = None
        super().on_headers_complete()
        if not self.pipeline:
            self._answering = self.cycle

    def on_body(self, body: bytes) -> None:
        if self._takes_no_more:
            return
        self._num_body_bytes += len(body)
        self._num_spare_bytes = max(0, self._num_spare_bytes - len(body) * (1 + OVERHEAD))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._takes_no_more:
            return
        self._num_spare_bytes = 0
        self._enter(Phase.HEAD if self.cycle.response_complete else Phase.NOTHING)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            self._answering, _ = self.pipeline[-1]
        super().on_response_complete()
        if not self.cycle.response_complete:
            return  # It was of the request before.
        if self._phase is Phase.NOTHING:
            self._enter(Phase.HEAD)
        elif self._phase is Phase.BODY:
            self._answered_at_s = self.loop.time()

    def pause_writing(self) -> None:
        self._write_paused_at_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_paused_at_s = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(f"{msg} It is not HTTP/1.1 as it should be.", 400)

    @property
    def _takes_no_more(self) -> bool:
        return self._is_full or self.transport.is_closing()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since_s = self.loop.time()
        self._num_body_bytes = 0

    def _is_head_too_large(self) -> bool:
        limits = self.limits
        if len(self.headers) > limits.max_headers:
            return True
        # What came may be of the body, too, so it is counted only where it could matter.
        return self._num_spare_bytes > limits.max_head_bytes and (
            len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            > limits.max_head_bytes
        )

    def _refuse_head(self) -> None:
        self._refuse(
            f"The request's headers are too large: at most {self.limits.max_headers} of them with "
            f"{self.limits.max_head_bytes} bytes in all may be sent.",
            431,
        )

    def _refuse(self, message: str, status: int) -> None:
        """Answer, where nothing else is being answered, and close."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self._phase is not Phase.BODY or self.pipeline:
                self.drop()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        error = Unavailable(message) if status == 503 else InvalidRequest(message, status=status)
        body = orjson.dumps(error.body())
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\n%bconnection: close\r\n\r\n%b"
            % (
                STATUS_LINE[status],
                len(body),
                b"retry-after: %d\r\n" % RETRY_AFTER_S if status == 503 else b"",
                body,
            )
        )
        self.transport.close()

    def _sweep_later(self) -> None:
        if not self.table.is_swept:
            self.table.is_swept = True
            self.loop.call_later(self.limits.sweep_s, _sweep, self.table, self.loop)


def _sweep(table: ConnectionTable[HttpConnection], loop: asyncio.AbstractEventLoop) -> None:
    now_s = loop.time()
    for connection in table:
        connection.check(now_s)
    table.is_swept = len(table) > 0
    if table.is_swept:
        loop.call_later(table.limits.sweep_s, _sweep, table, loop)


def connections(limits: ConnectionLimits) -> type[HttpConnection]:
    """`http` of a uvicorn.Config: the connections of one server, under these limits."""

    class Connection(HttpConnection):
        table = ConnectionTable(limits)

    return Connection
