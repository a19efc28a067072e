from __future__ import annotations

import httpx

from api.gateway.backends import MAX_PAUSE_S, Backends

URLS = tuple(f"http://backend-{i}" for i in range(5))
HTTP = httpx.AsyncClient(verify=False)  # never used: no request is sent here


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def backends(urls: tuple[str, ...] = URLS, clock: Clock | None = None) -> Backends:
    return Backends(HTTP, {"base": urls}, "", clock or Clock())


def test_a_key_stays_on_its_server_and_keys_spread() -> None:
    first = {key: backends().order("base", key)[0] for key in map(str, range(500))}
    assert first == {key: backends().order("base", key)[0] for key in first}
    counts = [list(first.values()).count(url) for url in URLS]
    assert min(counts) > 60


def test_only_the_share_of_a_server_that_goes_moves() -> None:
    before = {key: backends().order("base", key)[0] for key in map(str, range(500))}
    after = {key: backends(URLS[:-1]).order("base", key)[0] for key in before}
    assert all(after[key] == url for key, url in before.items() if url != URLS[-1])


def test_a_server_that_failed_comes_last_until_its_pause_is_over() -> None:
    clock = Clock()
    ring = backends(clock=clock)
    first = ring.order("base", "key")[0]
    ring._note_failure(first, httpx.ConnectError("down"))
    assert ring.order("base", "key")[-1] == first
    clock.now += 1.1
    assert ring.order("base", "key")[0] == first


def test_the_pause_grows_with_each_failure_up_to_a_limit() -> None:
    clock = Clock()
    ring = backends(clock=clock)
    first = ring.order("base", "key")[0]
    for _ in range(20):
        ring._note_failure(first, httpx.ConnectError("down"))
    clock.now += MAX_PAUSE_S - 1
    assert ring.order("base", "key")[-1] == first
    clock.now += 2
    assert ring.order("base", "key")[0] == first


def test_an_unknown_base_has_no_servers() -> None:
    assert backends().order("other", "key") == []
