"""`luthier serve` as a user starts it: a subprocess with a data directory and a port of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import openai

LUTHIER = Path(sys.executable).with_name("luthier")


class Stack:
    """A running server. `process` is the parent of everything."""

    def __init__(self, data: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.data = data
        self.process = process
        self.log = log
        self.base_url = f"http://127.0.0.1:{port}/v1"

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0)

    @property
    def api_key(self) -> str:
        return (self.data / "api_key").read_text().strip()

    def processes(self, command: str = "") -> list[int]:
        """Pids of this server's processes whose command line holds `command`, the parent left out."""
        marker = f"LUTHIER_DATA_DIR={self.data}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue
            if marker in environment and command in line and line:
                found.append(int(entry.name))
        return found

    def stop(self, grace_s: float = 15) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=grace_s)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    data: Path, *arguments: str, env: Mapping[str, str] | None = None, port: int | None = None
) -> Stack:
    """Start without waiting."""
    port = port or free_port()
    log = data.with_suffix(".log")
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [LUTHIER, "serve", "--data", data, "--port", str(port), *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # Test runs share the cores; more threads would only wait for each other.
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                # A report would be asked for behind each job, beside the test that comes next.
                "LUTHIER_REPORTS": "off",
                **(env or {}),
            },
        )
    return Stack(data, port, process, log)


def wait_until_ready(stack: Stack, timeout_s: float = 90) -> None:
    import httpx

    def is_ready() -> bool:
        assert stack.process.poll() is None, f"the server ended:\n{stack.tail()}"
        try:
            return httpx.get(stack.base_url.replace("/v1", "/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(is_ready, timeout_s, lambda: f"not ready:\n{stack.tail()}")


def wait_for(
    is_true: Callable[[], object], timeout_s: float, why: Callable[[], str] = lambda: "too slow"
) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


@contextmanager
def serving(data: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Stack]:
    stack = start(data, *arguments, env=env)
    try:
        wait_until_ready(stack)
        yield stack
    finally:
        stack.stop()
