"""A receiver of webhooks, as a project would run one: it answers as told and keeps what it got."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    url: str = ""
    answers: list[int] = field(default_factory=list)
    """Statuses to answer with, one after the other; then 200."""
    received: list[Received] = field(default_factory=list)
    is_held: threading.Event = field(default_factory=threading.Event)
    """While this is not set, nothing is answered."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    it = Receiver()
    it.is_held.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            it.received.append(Received(self.path, headers, body))
            it.is_held.wait(10)
            status = it.answers.pop(0) if it.answers else 200
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", f"{it.url}/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: pytest shows the tests' own output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    it.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield it
    finally:
        it.is_held.set()
        server.shutdown()
        server.server_close()
        thread.join()
