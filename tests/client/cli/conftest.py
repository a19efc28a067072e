from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from luthier.cli import app, jobs
from tests.client.fake_api import KEY, FakeApi

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """The command in this process, its output caught, nobody at the keyboard."""

    def run(*args: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, args, input=input)

    return run


@pytest.fixture
def luthier(api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, pointed at the test's server by the environment."""
    monkeypatch.setenv("LUTHIER_BASE_URL", api.base_url)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    # Its jobs have none.
    monkeypatch.setattr(jobs, "FORECAST_PATIENCE_S", 0.0)
    return run
