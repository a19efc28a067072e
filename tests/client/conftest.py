from __future__ import annotations

from collections.abc import Iterator

import pytest

from luthier import Luthier

from .fake_api import KEY, FakeApi, serving


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("LUTHIER_BASE_URL", "LUTHIER_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture(scope="session")
def server() -> Iterator[FakeApi]:
    fake = FakeApi()
    with serving(fake):
        yield fake


@pytest.fixture
def api(server: FakeApi) -> FakeApi:
    server.reset()
    return server


@pytest.fixture
def client(api: FakeApi) -> Iterator[Luthier]:
    # No retries of its own: what the tests see survive is Luthier's doing.
    with Luthier(base_url=api.base_url, api_key=KEY, max_retries=0) as client:
        yield client
