"""A server for the suite: the embedded stack, except that no worker takes the jobs that the suite creates."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from embedded import ports, stack
from embedded.postgres import Postgres
from storage.models import base_models
from storage.models.base_models import Catalogue

API_KEY = "My API Key"
ADMIN_KEY = "My Admin API Key"
BASE = "tiny-random"
ALIASES = ("gpt-4o-mini", "gpt-6-astra", "gpt-3.5-turbo-instruct")
"""The models that the suite names."""
MAX_SEQ_LEN = 512

_START_DEADLINE_S = 120.0
_STOP_DEADLINE_S = 20.0


@dataclass(frozen=True)
class Server:
    base_url: str
    database_url: str
    blob_url: str


@contextmanager
def running() -> Iterator[Server]:
    """Everything is new and in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="luthier-conformance-") as folder:
        path = Path(folder)
        database = Postgres(path / "postgres", fsync=False).running(path / "postgres.log")
        with database as postgres:
            server = Server(
                f"http://127.0.0.1:{ports.free()}/v1", postgres.url(), (path / "blobs").as_uri()
            )
            with _serving(server, path):
                yield server


@contextmanager
def _serving(server: Server, path: Path) -> Iterator[None]:
    port = server.base_url.removesuffix("/v1").rpartition(":")[2]
    log = path / "server.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(path / "data"), port],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "LUTHIER_DATABASE_URL": server.database_url,
                "LUTHIER_BLOB_URL": server.blob_url,
                "LUTHIER_API_KEY": API_KEY,
                "LUTHIER_ADMIN_KEY": ADMIN_KEY,
                "OMP_NUM_THREADS": "1",
            },
        )
    try:
        deadline = time.monotonic() + _START_DEADLINE_S
        while not _is_ready(server):
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield
    finally:
        child.terminate()
        child.wait(timeout=_STOP_DEADLINE_S)


def _is_ready(server: Server) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(server.base_url.removesuffix("v1") + "readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextmanager
def resetting(reset: Callable[[], None]) -> Iterator[str]:
    """A URL that calls `reset`; the suite runs in a process that knows nothing of our tables."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                reset()
                status, body = 200, b""
            except Exception:
                status, body = 500, traceback.format_exc().encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/"
        finally:
            http.shutdown()
            thread.join()


def main(data: Path, port: int) -> int:
    """Serve until told to stop."""
    tiny = Catalogue.load(None, {}).get(BASE)
    assert tiny is not None
    # Random weights find no end, and the suite waits for all they have to say.
    base_models.add(data, replace(tiny, max_seq_len=MAX_SEQ_LEN))
    return stack.serve(
        data, port=port, aliases=dict.fromkeys(ALIASES, BASE), bases=[BASE], with_worker=False
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
