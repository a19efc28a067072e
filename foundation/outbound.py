"""Posts to URLs that users name: to public addresses only, to an end in bounded time, whatever answers.

A name is resolved here and the connection goes to the very address that was checked, so a name that means
something else a moment later leads nowhere. Redirects are not followed, the reply's body is not read, and
no proxy of the environment takes part.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpcore
import httpx

from .errors import InvalidRequest

TIMEOUT_S = 10.0
"""For everything after the name is resolved: connecting, TLS, sending, and the reply's head."""
MAX_URL_CHARS = 2048

# Public by their numbers, and yet not what they seem: a cloud's own service, and addresses of the version 6
# that stand for ones of the version 4.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
        "fec0::/10",
    )
]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class CannotSend(Exception):
    """Nothing answered in time, or not in HTTP. The message may be shown to who named the URL."""


def check_url(url: str, *, allow_private: bool) -> None:
    """Raises InvalidRequest unless posts to the URL would be tried now. Resolves its name."""
    parsed = _parsed(url, allow_private=allow_private)
    if allow_private:
        return
    try:
        _addresses(parsed.raw_host.decode(), parsed.port or 443, allow_private=False)
    except CannotSend as error:
        raise _refused(str(error)) from None


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    allow_private: bool,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """The status that the URL answers with. Raises CannotSend."""
    try:
        parsed = _parsed(url, allow_private=allow_private)
    except InvalidRequest as error:
        raise CannotSend(error.message) from None
    target = httpcore.URL(
        scheme=parsed.raw_scheme,
        host=parsed.raw_host,
        port=parsed.port,
        target=parsed.raw_path,
    )
    host = parsed.netloc.decode("ascii")
    all_headers = [*headers.items(), ("host", host), ("connection", "close")]
    backend = _Backend(time.monotonic() + timeout_s, allow_private=allow_private)
    try:
        with (
            httpcore.ConnectionPool(network_backend=backend, ssl_context=_tls()) as pool,
            pool.stream("POST", target, headers=all_headers, content=body) as response,
        ):
            return int(response.status)
    except httpcore.TimeoutException:
        raise CannotSend(f"There was no answer within {timeout_s:.0f} seconds.") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise CannotSend(f"The connection failed: {error}") from None


def is_public(address: str) -> bool:
    """Whether it is an address of the internet at large."""
    ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in _NOT_PUBLIC):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _parsed(url: str, *, allow_private: bool) -> httpx.URL:
    """Raises InvalidRequest."""
    if len(url) > MAX_URL_CHARS:
        raise _refused(f"it has more than {MAX_URL_CHARS} characters.")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise _refused("it cannot be read as a URL.") from None
    schemes = ("https", "http") if allow_private else ("https",)
    if parsed.scheme not in schemes:
        raise _refused("it must begin with https://.")
    if not parsed.raw_host:
        raise _refused("it names no host.")
    if parsed.userinfo or parsed.fragment:
        raise _refused("it must hold no user name, no password and no fragment.")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise _refused("its port is none.")
    return parsed


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'url': {why}", param="url", code="invalid_value")


def _addresses(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Where the name leads: only if every one of its addresses is allowed. Raises CannotSend."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise CannotSend(f"the name {host} cannot be resolved.") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private and not all(map(is_public, addresses)):
        # Which address it is stays untold: the names of the inside are nobody's business.
        raise CannotSend(
            f"{host} leads to an address that is not public. The operator of this server can allow "
            "that with LUTHIER_WEBHOOK_ALLOW_PRIVATE=1."
        )
    return addresses


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class _Backend(httpcore.NetworkBackend):
    """Connects to checked addresses, by a deadline."""

    def __init__(self, deadline: float, *, allow_private: bool) -> None:
        self._deadline = deadline
        self._allow_private = allow_private
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _addresses(host, port, allow_private=self._allow_private)
        for number, address in enumerate(addresses, 1):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, timeout=_left(self._deadline), socket_options=socket_options
                )
            except httpcore.ConnectError:
                if number == len(addresses):
                    raise
            else:
                return _Stream(stream, self._deadline)
        raise CannotSend(f"the name {host} leads nowhere.")


class _Stream(httpcore.NetworkStream):
    """Every operation ends by the deadline: a server that drips bytes gains nothing."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: float) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._inner.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("The deadline has passed.")
    return left
