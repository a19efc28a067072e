"""Start `luthier serve` for the length of a `with` block, as a user would in another terminal."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
import openai

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0


class ServerError(RuntimeError):
    """The server did not come up, or died; the message ends with the last lines of its log."""


@contextmanager
def running(
    data_dir: Path, *options: str, env: Mapping[str, str] = MappingProxyType({})
) -> Iterator[openai.OpenAI]:
    """A client of a fresh server on a free port; its log is `data_dir`/server.log.

    What an earlier run left in `data_dir` is removed, but for the imported bases, which take a
    while to make and never change.

    Raises:
        ServerError: the server is not ready within START_TIMEOUT_S, or another one runs in `data_dir`.
    """
    _wipe(data_dir)
    log = data_dir / "server.log"
    port = _free_port()
    luthier = Path(sys.executable).with_name("luthier")
    command = [
        str(luthier),
        "serve",
        "--data",
        str(data_dir),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/readyz", log)
        key = (data_dir / "api_key").read_text().strip()
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as client:
            yield client
    finally:
        _stop(process)


def log_tail(log: Path, num_lines: int = 30) -> str:
    """The last lines of a log, or a word on why there are none."""
    if not log.exists():
        return "(no log was written)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-num_lines:])


def _wipe(data_dir: Path) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(f"another server still runs in {data_dir}; stop it first") from None
    for entry in data_dir.iterdir():
        if entry.name == "bases":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(
                f"the server ended with status {process.returncode}:\n{log_tail(log)}"
            )
        try:
            if httpx.get(url, timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # It does not listen yet.
        time.sleep(0.25)
    raise ServerError(f"the server was not ready after {START_TIMEOUT_S:.0f} s:\n{log_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
