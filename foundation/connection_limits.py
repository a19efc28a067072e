"""How many connections an HTTP server holds open, and who makes room when there are too many.

Whoever has sent a valid key on a connection is known, and known connections are bounded only by what the
process can hold. The others share what is left: so many for each address, and when one more comes, the
one of them that has waited longest goes. A client sends its request within milliseconds, so it is those
who hold connections without using them that lose them.
"""

from __future__ import annotations

import ipaddress
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_CONNECTIONS = 10_000
IPV6_PREFIX = 64
"""What one customer of a provider gets at least: its addresses count as one."""


@dataclass(frozen=True)
class ConnectionLimits:
    max_connections: int = MAX_CONNECTIONS
    max_unknown_per_address: int = 512
    """Connections of one address that have carried no valid key yet."""
    trusted_proxies: tuple[Network, ...] = ()
    """Whose connections are other people's: the bound for an address does not hold for them."""
    max_head_bytes: int = 64 * 1024
    max_headers: int = 128
    head_timeout_s: float = 10.0
    """From the connection's begin, or the end of what it carried before, to the end of a request's head."""
    body_window_s: float = 30.0
    min_body_bytes: int = 4 * 1024
    """Of a request's body in each window, as long as somebody here waits for it."""
    linger_s: float = 10.0
    """How long the rest of a body may still come, and be dropped, when the answer has been given."""
    write_timeout_s: float = 60.0
    """How long a client may leave an answer unread, or open when it should be closed."""
    sweep_s: float = 1.0
    """How often the times are looked at."""


class Held(Protocol):
    """A connection as this module knows it."""

    @property
    def address(self) -> str: ...

    @property
    def is_known(self) -> bool:
        """It has carried a valid key."""

    @property
    def is_idle(self) -> bool:
        """Nothing is being done for it."""

    def drop(self) -> None:
        """End it at once."""


Connection = TypeVar("Connection", bound=Held)


@dataclass
class ConnectionTable(Generic[Connection]):
    """All connections of a server, the oldest first."""

    limits: ConnectionLimits
    is_swept: bool = False
    """Somebody looks at the times."""
    _all: dict[Connection, str] = field(default_factory=dict)
    """With what they are counted under."""
    _unknown: dict[str, dict[Connection, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._all))

    def add(self, connection: Connection) -> bool:
        """False if there is no room for it and none could be made."""
        holder = counted_as(connection.address)
        if len(self._all) >= self.limits.max_connections:
            unused = self._unused()
            if unused is None:
                return False
            self._drop(unused)
        if self._is_full(holder) and not self._is_proxy(connection.address):
            unused = self._oldest_unused(holder)
            if self._is_full(holder):
                if unused is None:
                    return False
                self._drop(unused)
        self._all[connection] = holder
        self._unknown.setdefault(holder, {})[connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        holder = self._all.pop(connection, None)
        if holder is not None:
            self._forget_unknown(connection, holder)

    def _is_full(self, holder: str) -> bool:
        return len(self._unknown.get(holder, ())) >= self.limits.max_unknown_per_address

    def _unused(self) -> Connection | None:
        """A connection of who holds most without a key; else one that carried a key and is idle now."""
        for holder in sorted(self._unknown, key=lambda it: len(self._unknown[it]), reverse=True):
            unused = self._oldest_unused(holder)
            if unused is not None:
                return unused
        return next((each for each in self._all if each.is_idle), None)

    def _oldest_unused(self, holder: str) -> Connection | None:
        """Among the holder's unknown ones; those that are known by now are found on the way."""
        for connection in list(self._unknown.get(holder, ())):
            if connection.is_known:
                self._forget_unknown(connection, holder)
            elif connection.is_idle:
                return connection
        return None

    def _drop(self, connection: Connection) -> None:
        self.remove(connection)
        connection.drop()

    def _forget_unknown(self, connection: Connection, holder: str) -> None:
        unknown = self._unknown.get(holder, {})
        unknown.pop(connection, None)
        if not unknown:
            self._unknown.pop(holder, None)

    def _is_proxy(self, address: str) -> bool:
        if not self.limits.trusted_proxies:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self.limits.trusted_proxies)


def counted_as(address: str) -> str:
    """The address itself, or the network that an IPv6 address is surely all of."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, IPV6_PREFIX), strict=False))


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may; returns how many connections that is for.

    A request has its own and often one to an inference server or to storage.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(1, hard // 2))
