"""TCP ports: finding one, and finding out that one is taken."""

from __future__ import annotations

import errno
import socket
import time

from .process import CannotStart


def free(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on just now."""
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def check_free(host: str, port: int, patience_s: float = 0.0) -> None:
    """Raises CannotStart when `port` is still taken after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            _bind(host, port)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}") from error
            if time.monotonic() >= deadline:
                raise CannotStart(
                    f"port {port} on {host} is in use by another program; choose one with --port"
                ) from error
        time.sleep(0.1)


def _bind(host: str, port: int) -> None:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        # As servers do: a port is not taken because of connections that have just ended.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
