from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import structlog

from api.fine_tuning import event_feed
from embedded.postgres import Postgres
from embedded.valkey import Valkey
from foundation.settings import Settings
from tests import servers
from tests.api.fine_tuning import stream_reader
from tests.api.stack import Api, Tenant, running_api


@pytest.fixture(scope="session", autouse=True)
def plain_log() -> None:
    """structlog's default paints each traceback with all its variables, which takes seconds."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        # To pytest, which shows it where a test fails.
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture(scope="session")
def api(
    postgres: Postgres,
    database_template: str,
    valkey: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """One api for all tests that leave it as it is: each works in projects of its own."""
    path: Path = tmp_path_factory.mktemp("api")
    aliases = {"gpt-4o-mini": "tiny-random"}
    with (
        servers.fresh_settings(
            postgres, database_template, valkey, path, aliases=aliases, train_unserved=True
        ) as settings,
        running_api(settings) as running,
    ):
        yield running


@pytest.fixture
def settings(api: Api) -> Settings:
    """For an api of a test's own, on the same servers."""
    return api.settings.replace()


@pytest.fixture
def tenant(api: Api) -> Tenant:
    return api.tenant()


@pytest.fixture
def client(api: Api, tenant: Tenant) -> Iterator[openai.OpenAI]:
    with api.client(tenant) as client:
        yield client


@pytest.fixture
def http(api: Api, tenant: Tenant) -> Iterator[httpx.Client]:
    with api.http(tenant) as http:
        yield http


@pytest.fixture
def job_id(api: Api, tenant: Tenant) -> str:
    """Of a job that goes on."""
    return stream_reader.job(api, tenant)


@pytest.fixture
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new reaches those who follow a job without the usual wait."""
    monkeypatch.setattr(event_feed, "POLL_S", 0.02)
