"""Connections that are held for nothing: half a head, half a body, an answer that nobody reads."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from foundation.connection_limits import ConnectionLimits
from foundation.http_connection import MAX_PIPELINED
from tests.api.stack import running, wait_until

QUICK = ConnectionLimits(
    head_timeout_s=0.2,
    body_window_s=0.2,
    linger_s=0.2,
    write_timeout_s=0.2,
    min_body_bytes=100,
    sweep_s=0.02,
    max_head_bytes=4096,
    max_headers=20,
)
NOT_QUICK = ConnectionLimits(max_unknown_per_address=8, max_connections=20)
HALF = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-le"
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


class App:
    """Answers with the length of the body. `/hold` answers when told to; `/flood` has no end."""

    def __init__(self) -> None:
        self.num_open = 0
        self.reads = True
        self.is_held = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.num_open += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.num_open -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"authorization" for name, _ in scope["headers"]):
            scope["state"]["caller"] = "somebody"
        elif scope["path"] == "/keyed":
            await self._send(send, 401, b"no key")
            return
        length = 0
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                return
            length += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/hold":
            while self.is_held and (await receive())["type"] != "http.disconnect":
                continue
            return
        if scope["path"] == "/flood":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            # Bounded, should the connection's end be missed.
            for _ in range(1000):
                chunk = b"x" * 1_000_000
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            return
        await self._send(send, 200, str(length).encode())

    async def _send(self, send: Send, status: int, body: bytes) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def connect(url: str, begun: bytes = b"") -> Iterator[socket.socket]:
    split = urlsplit(url)
    assert split.hostname is not None
    with socket.create_connection((split.hostname, split.port or 0), timeout=10) as opened:
        opened.sendall(begun)
        yield opened


def rest(opened: socket.socket) -> bytes:
    """All that comes until the server closes."""
    got = b""
    with suppress(ConnectionResetError):
        while piece := opened.recv(65536):
            got += piece
    return got


def error(reply: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = reply.partition(b"\r\n\r\n")
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return int(head.split()[1]), found


def answers(url: str) -> bool:
    return httpx.get(url, trust_env=False).text == "0"


@pytest.mark.parametrize("drip", [b"x", b"\r\n"])
def test_a_head_comes_in_time_however_it_is_dripped(drip: bytes) -> None:
    with running(App(), QUICK) as url, connect(url, b"\r\n" if drip == b"\r\n" else HALF) as opened:
        opened.settimeout(0.05)
        got, deadline = b"", time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                opened.sendall(drip)
                piece = opened.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                break  # It was answered and closed before this drop.
            if not piece:
                break
            got += piece
        status, found = error(got)
        assert status == 408
        assert "headers did not come within 0.2 seconds" in found["message"]


def test_who_sends_nothing_is_closed_without_a_word() -> None:
    with running(App(), QUICK) as url:
        with connect(url) as opened:
            assert rest(opened) == b""
        # The same behind a request that was answered.
        with connect(url, GET) as opened:
            assert rest(opened).endswith(b"\r\n\r\n0")


def test_half_requests_take_nobody_else_s_place() -> None:
    with running(App(), NOT_QUICK) as url, ExitStack() as stack:
        half = [stack.enter_context(connect(url, HALF)) for _ in range(40)]
        assert answers(url)
        for opened in half[:30]:
            assert rest(opened) == b""
        # Those that came last may still send the other half.
        half[-1].sendall(b"ngth: 0\r\nconnection: close\r\n\r\n")
        assert rest(half[-1]).endswith(b"\r\n\r\n0")


def test_who_has_shown_a_key_keeps_its_connection() -> None:
    app = App()
    keyed = b"GET /hold HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\n\r\n"
    with running(app, NOT_QUICK) as url, ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connect(url, keyed))
        wait_until(lambda: app.num_open == 10)
        for _ in range(40):
            stack.enter_context(connect(url, HALF))
        assert answers(url)
        assert app.num_open == 10


def test_a_server_that_is_full_says_so() -> None:
    app = App()
    keyed = b"GET /hold HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\n\r\n"
    limits = ConnectionLimits(max_connections=3)
    with running(app, limits) as url, ExitStack() as stack:
        held = [stack.enter_context(connect(url, keyed)) for _ in range(3)]
        wait_until(lambda: app.num_open == 3)
        with connect(url) as opened:
            reply = rest(opened)
        assert error(reply)[0] == 503
        assert b"retry-after:" in reply
        held[0].close()
        wait_until(lambda: app.num_open == 2)
        assert answers(url)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000,
        b"GET /" + b"y" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 21 + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 4096 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 0\r\nx: " + b"y" * 4096 + b"\r\n\r\n" + GET,
    ],
)
def test_a_head_is_not_too_large(head: bytes) -> None:
    with running(App(), QUICK) as url, connect(url) as opened:
        with suppress(ConnectionResetError, BrokenPipeError):
            opened.sendall(head)
        status, found = error(rest(opened))
        assert status == 431
        assert "at most 20 of them with 4096 bytes" in found["message"]


def test_what_is_no_http_is_told_so_in_openai_s_shape() -> None:
    with running(App(), QUICK) as url, connect(url, b"HELO there\r\n\r\n") as opened:
        status, found = error(rest(opened))
        assert status == 400
        assert found["type"] == "invalid_request_error"


def test_a_body_keeps_coming() -> None:
    app = App()
    head = (
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"
    )
    with running(app, QUICK) as url:
        with connect(url, head + b"x") as opened:
            status, found = error(rest(opened))
        assert status == 408
        assert "less than 100 bytes in 0.2 seconds" in found["message"]
        wait_until(lambda: app.num_open == 0)
        with connect(url, head) as opened:
            opened.sendall(b"x" * 1000)
            assert rest(opened).endswith(b"\r\n\r\n1000")


@pytest.mark.parametrize("framing", [b"content-length: 100000", b"transfer-encoding: chunked"])
def test_a_body_that_nobody_wants_ends_soon(framing: bytes) -> None:
    head = b"POST /keyed HTTP/1.1\r\nhost: localhost\r\n" + framing + b"\r\n\r\n"
    with running(App(), QUICK) as url, connect(url, head) as opened:
        opened.settimeout(0.05)
        got, deadline = b"", time.monotonic() + 10
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < deadline:
                with suppress(TimeoutError):
                    opened.sendall(b"5\r\nhello\r\n")
                    piece = opened.recv(65536)
                    if not piece:
                        break
                    got += piece
        assert time.monotonic() < deadline
        assert got.startswith(b"HTTP/1.1 401")


def test_lines_behind_a_body_are_bounded() -> None:
    head = (
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    )
    with running(App(), QUICK) as url:
        with connect(url, head) as opened:
            with suppress(ConnectionResetError, BrokenPipeError):
                for _ in range(100):
                    opened.sendall(b"x: " + b"y" * 1000 + b"\r\n")
            assert error(rest(opened))[0] == 431
        with connect(url, head + b"x: y\r\nconnection: close\r\n\r\n") as opened:
            opened.shutdown(socket.SHUT_WR)
            assert rest(opened).endswith(b"\r\n\r\n1")


def test_many_small_chunks_are_no_overhead() -> None:
    chunks = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    with running(App(), QUICK) as url, connect(url, head + chunks) as opened:
        assert rest(opened).endswith(b"\r\n\r\n20000")


def test_an_answer_that_nobody_reads_ends() -> None:
    app = App()
    with running(app, QUICK) as url, connect(url, b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n"):
        wait_until(lambda: app.num_open == 1)
        wait_until(lambda: app.num_open == 0)


def test_requests_that_wait_for_their_turn_are_few() -> None:
    with running(App(), QUICK) as url:
        with connect(url, GET * 10) as opened:
            assert rest(opened).count(b"HTTP/1.1 200") == 10
        with connect(url, GET * 1000) as opened:
            assert rest(opened).count(b"HTTP/1.1 200") == 1 + MAX_PIPELINED


def test_what_waits_for_its_turn_gets_nothing_of_what_is_not_taken() -> None:
    post = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc"
    with running(App(), QUICK) as url, connect(url, post * 100) as opened:
        got = rest(opened)
        assert got.count(b"HTTP/1.1 200") == 1 + MAX_PIPELINED
        assert got.count(b"\r\n\r\n3") == 1 + MAX_PIPELINED


def test_what_is_at_work_is_told_of_the_end_though_others_wait_behind_it() -> None:
    app = App()
    hold = b"GET /hold HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with running(app, QUICK) as url, connect(url, hold + GET) as opened:
        wait_until(lambda: app.num_open == 1)
        # A head that never ends comes in pieces behind them, and the connection is dropped.
        opened.sendall(HALF)
        wait_until(lambda: app.num_open == 0)
