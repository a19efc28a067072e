from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from foundation import outbound
from foundation.errors import InvalidRequest
from foundation.outbound import CannotSend
from tests.receiver import receiver


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:7f00:1::",
        "fec0::1",
    ],
)  # fmt: skip
def test_addresses_of_the_inside_are_not_public(address: str) -> None:
    assert not outbound.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert outbound.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://1.1.1.1/", "ftp://1.1.1.1/", "https://", "https:///x", "x", "", "https://u:p@1.1.1.1/",
        "https://1.1.1.1/#x", "https://1.1.1.1:0/", "https://1.1.1.1:99999/", "https://[::1", "https://a b.invalid/",
        "https://1.1.1.1/" + "x" * 2048, "https://no-such-name.invalid/", "https://127.0.0.1/",
        "https://localhost/", "https://[::1]/", "https://127.1/", "https://2130706433/",
        "https://0x7f.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/meta-data",
    ],
)  # fmt: skip
def test_url_that_must_not_be_posted_to_is_refused_and_never_tried(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        outbound.check_url(url, allow_private=False)
    assert refused.value.param == "url"
    with pytest.raises(CannotSend):
        outbound.post(url, {}, b"{}", allow_private=False)


def test_public_https_url_may_be_posted_to() -> None:
    outbound.check_url("https://1.1.1.1/hook?x=1", allow_private=False)
    outbound.check_url("https://[2606:4700:4700::1111]:8443/hook", allow_private=False)


def test_one_private_address_among_public_ones_is_one_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("1.1.1.1", "10.0.0.1"))
    with pytest.raises(InvalidRequest, match="not public"):
        outbound.check_url("https://example.com/", allow_private=False)


def test_name_that_changes_its_address_after_the_check_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["1.1.1.1", "127.0.0.1", "1.1.1.1"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: resolving_to(next(answers))(*a, **k))
    connected: list[Any] = []
    monkeypatch.setattr(
        socket, "create_connection", lambda address, *_a, **_k: connected.append(address)
    )
    outbound.check_url("https://example.com/", allow_private=False)
    with pytest.raises(CannotSend, match="not public"):
        outbound.post("https://example.com/", {}, b"{}", allow_private=False)
    assert connected == []


def resolving_to(*addresses: str) -> Any:
    def getaddrinfo(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    return getaddrinfo


def test_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as it:
        port = it.url.rpartition(":")[2]
        monkeypatch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1"))
        url = f"http://hooks.example.com:{port}/in?x=1"
        assert outbound.post(url, {"x-test": "1"}, b"{}", allow_private=True) == 200
        (received,) = it.received
    assert (received.path, received.body) == ("/in?x=1", b"{}")
    assert received.headers["host"] == f"hooks.example.com:{port}"
    assert received.headers["x-test"] == "1"


def test_redirects_are_not_followed() -> None:
    with receiver() as it:
        it.answers = [307]
        assert outbound.post(it.url, {}, b"{}", allow_private=True) == 307
        assert len(it.received) == 1


@contextmanager
def server(answer: Any) -> Iterator[str]:
    """Takes one connection and hands it to `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                try:
                    answer(connection)
                except OSError:  # the other side has hung up, as it should
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(5)


def test_server_that_drips_its_head_ends_by_the_deadline() -> None:
    def drip(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x-slow: 1\r\n" * 100:
            connection.send(bytes([byte]))
            time.sleep(0.05)

    began = time.monotonic()
    with server(drip) as url, pytest.raises(CannotSend, match="no answer"):
        outbound.post(url, {}, b"{}", allow_private=True, timeout_s=0.4)
    assert time.monotonic() - began < 2


def test_endless_body_is_not_read() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 204 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    with server(flood) as url:
        assert outbound.post(url, {}, b"{}", allow_private=True, timeout_s=2) == 204


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 10**6]
)
def test_what_is_not_http_is_a_failure(answer: bytes) -> None:
    with server(lambda connection: connection.sendall(answer)) as url, pytest.raises(CannotSend):
        outbound.post(url, {}, b"{}", allow_private=True, timeout_s=2)


def test_closed_port_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CannotSend, match="connection failed"):
        outbound.post(f"http://127.0.0.1:{port}/", {}, b"{}", allow_private=True)
