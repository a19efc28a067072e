from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from api.gateway.entrance import MAX_OF_PROJECT
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import ask, gateway
from tests.api.stack import Api, wait_until


def test_a_crowd_of_one_projects_requests_leaves_the_entrance_to_others(api: Api) -> None:
    """However many of a project's requests come at once, a few are dealt with at a time."""
    backend = FakeBackend(is_frozen=True)
    many, other = api.tenant(), api.tenant()
    with (
        gateway(api, backend) as front,
        front.client(many) as crowd,
        front.client(other) as client,
        ThreadPoolExecutor(3 * MAX_OF_PROJECT) as threads,
    ):
        waiting = [threads.submit(ask, crowd) for _ in range(2 * MAX_OF_PROJECT)]
        wait_until(lambda: len(backend.requests) == MAX_OF_PROJECT)
        waiting.append(threads.submit(ask, client))
        wait_until(lambda: len(backend.requests) > MAX_OF_PROJECT)
        salts = [headers["x-luthier-cache-salt"] for _, headers in backend.requests]
        assert salts == MAX_OF_PROJECT * [many.project_id] + [other.project_id]
        backend.is_frozen = False
        for each in waiting:
            assert each.result(timeout=30).choices
