from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.e2e.stack import Stack, serving


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One embedded server on the tiny base, for all tests that do not kill parts of it."""
    data = tmp_path_factory.mktemp("e2e") / "data"
    with serving(data, "--base", "tiny-random", "--alias", "gpt-4o-mini=tiny-random") as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with stack.client() as client:
        yield client
