from __future__ import annotations

import socket
from contextlib import closing

import pytest

from tests.loopback_only import LeftThisMachine


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "10.0.0.1", "169.254.169.254", "93.184.215.14", "192.0.2.1"]
)
def test_nothing_is_sent_to_other_machines(address: str) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with closing(socket.socket(type=kind)) as sender, pytest.raises(LeftThisMachine):
            sender.connect((address, 9))
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as sender, pytest.raises(LeftThisMachine):
        sender.sendto(b"x", (address, 9))


def test_no_name_is_looked_up() -> None:
    for look_up in (socket.gethostbyname, lambda name: socket.getaddrinfo(name, 443)):
        with pytest.raises(LeftThisMachine):
            look_up("example.com")
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("no-such-name.invalid", 443)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1])).close()
