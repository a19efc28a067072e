"""Who makes room when there are too many connections."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.connection_limits import ConnectionLimits, ConnectionTable, counted_as


@dataclass(eq=False)
class Held:
    address: str
    is_known: bool = False
    is_idle: bool = True
    is_dropped: bool = False

    def drop(self) -> None:
        self.is_dropped = True


def table(
    max_connections: int = 100, per_address: int = 3, proxies: str = ""
) -> ConnectionTable[Held]:
    return ConnectionTable(
        ConnectionLimits(
            max_connections=max_connections,
            max_unknown_per_address=per_address,
            trusted_proxies=(ipaddress.ip_network(proxies),) if proxies else (),
        )
    )


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("not:an address", "not:an address"),
    ],
)
def test_addresses_that_one_customer_has_count_as_one(address: str, counted: str) -> None:
    assert counted_as(address) == counted


def test_the_oldest_without_a_key_makes_room_for_its_own_address_alone() -> None:
    connections = table()
    other = Held("192.0.2.9")
    mine = [Held("192.0.2.7") for _ in range(5)]
    assert all(connections.add(each) for each in [other, *mine])
    assert [each.is_dropped for each in mine] == [True, True, False, False, False]
    assert not other.is_dropped


def test_who_has_shown_a_key_is_not_counted_and_stays() -> None:
    connections = table()
    known = [Held("192.0.2.7", is_known=True) for _ in range(10)]
    strangers = [Held("192.0.2.7") for _ in range(10)]
    assert all(connections.add(each) for each in [*known, *strangers])
    assert not any(each.is_dropped for each in known)
    assert sum(not each.is_dropped for each in strangers) == 3


def test_a_request_that_is_being_answered_is_not_dropped() -> None:
    connections = table()
    busy = [Held("192.0.2.7", is_idle=False) for _ in range(3)]
    assert all(connections.add(each) for each in busy)
    assert not connections.add(Held("192.0.2.7"))
    assert connections.add(Held("192.0.2.8"))
    assert not any(each.is_dropped for each in busy)


def test_the_connections_of_a_trusted_proxy_are_other_people_s() -> None:
    connections = table(proxies="10.0.0.0/8")
    through = [Held("10.1.2.3") for _ in range(50)]
    assert all(connections.add(each) for each in through)
    assert not any(each.is_dropped for each in through)


Step = tuple[int, bool, bool, bool]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.booleans(), st.booleans()), max_size=60
    ),
    st.integers(1, 8),
    st.integers(1, 4),
)
def test_the_bounds_hold_and_only_the_unused_are_dropped(
    steps: list[Step], max_connections: int, per_address: int
) -> None:
    connections = table(max_connections, per_address)
    held: list[Held] = []
    for host, becomes_known, becomes_busy, ends_one in steps:
        new = Held(f"192.0.2.{host}")
        if connections.add(new):
            held.append(new)
        else:
            # Only where nothing could have made room.
            full = [each for each in held if not each.is_dropped]
            rivals = (
                full
                if len(full) >= max_connections
                else [x for x in full if x.address == new.address]
            )
            assert not any(each.is_idle and not each.is_known for each in rivals)
        new.is_known, new.is_idle = becomes_known, not becomes_busy
        assert all(each.is_idle for each in held if each.is_dropped)
        held = [each for each in held if not each.is_dropped]
        assert len(connections) == len(held) <= max_connections
        for address in {each.address for each in held}:
            strangers = [x for x in held if x.address == address and not x.is_known]
            assert len(strangers) <= per_address
        if ends_one and held:
            connections.remove(held.pop(0))
    for each in held:
        connections.remove(each)
    assert len(connections) == 0
    assert not connections._unknown


def test_a_server_takes_all_descriptors_that_it_may_have() -> None:
    code = (
        "import resource as r; from foundation.connection_limits import raise_descriptor_limit as raised;"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, 512)); print(raised(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Half of them are for what requests need besides.
    assert done.stdout.split() == ["256", "512", "512"]
