from __future__ import annotations

import socket
import threading
import time

import pytest

from embedded import ports
from embedded.process import CannotStart


def test_free_port_passes_the_check() -> None:
    ports.check_free("127.0.0.1", ports.free())


def test_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"port {port} on 127.0.0.1 is in use"):
            ports.check_free("127.0.0.1", port)


def test_patience_waits_for_the_last_owner() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    threading.Timer(0.2, taken.close).start()
    began_at = time.monotonic()
    ports.check_free("127.0.0.1", taken.getsockname()[1], patience_s=10)
    assert time.monotonic() - began_at < 5


def test_foreign_address_cannot_be_listened_on() -> None:
    with pytest.raises(CannotStart, match="cannot listen on"):
        ports.check_free("192.0.2.1", 8000)


def test_unknown_host_cannot_be_listened_on() -> None:
    with pytest.raises(CannotStart, match="cannot listen on"):
        ports.check_free("no-such-host.invalid", 8000)
