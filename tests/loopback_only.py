"""Keeps a test run on this machine: what Python sends goes to loopback addresses, and no name is looked up."""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

UNKNOWN_TOP_LEVEL = ".invalid"
"""Reserved for names that do not exist, so the answer is known without asking anybody."""


class LeftThisMachine(AssertionError):
    """A test was about to send something away."""


def install() -> None:
    """For the rest of this process, in every thread."""
    sys.addaudithook(_check)
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(host, str) and host.endswith(UNKNOWN_TOP_LEVEL):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        _, address = arguments
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            raise LeftThisMachine(f"tests send to loopback addresses only, not to {address[0]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
        if host and not _is_numeric(host) and not _is_own_name(host):
            raise LeftThisMachine(f"tests look up no names, but {host!r} was to be")


def _is_loopback(host: str) -> bool:
    # A connection to "any address" is one to this machine.
    if _is_own_name(host):
        return True
    ip = ipaddress.ip_address(host.partition("%")[0])
    return ip.is_loopback or ip.is_unspecified


def _is_numeric(host: str | bytes) -> bool:
    """Whether the C library reads it as an address, whose forms are more than the usual ones."""
    text = host.decode() if isinstance(host, bytes) else host
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except OSError:
        try:
            socket.inet_aton(text)
        except OSError:
            return False
    return True


def _is_own_name(host: str | bytes) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    return text in ("", "localhost", socket.gethostname())
