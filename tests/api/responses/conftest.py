from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import gateway
from tests.api.stack import Api, Tenant


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def front(api: Api, backend: FakeBackend) -> Iterator[Api]:
    with gateway(api, backend) as front:
        yield front


@pytest.fixture
def client(front: Api, tenant: Tenant, backend: FakeBackend) -> Iterator[openai.OpenAI]:
    """Of a project that nobody else is in; the inference server is as it was at first."""
    backend.__init__()  # type: ignore[misc]
    with front.client(tenant) as client:
        yield client
