from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from tests import servers
from tests.api.conftest import plain_log as plain_log
from tests.api.stack import Api, Tenant, running_api
from tests.dashboard import believable
from tests.dashboard.browser import CHROMIUM, QUIET
from tests.dashboard.viewer import Viewer
from tests.dashboard.viewer import viewer as opened

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def api(
    postgres: Postgres,
    database_template: str,
    valkey: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    with (
        servers.fresh_settings(
            postgres,
            database_template,
            valkey,
            tmp_path_factory.mktemp("api"),
            train_unserved=True,
        ) as settings,
        running_api(settings) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def tenant(api: Api) -> Tenant:
    """With the jobs, models and files of a team that has used the server for a while."""
    tenant = api.tenant()
    believable.fill(api, tenant)
    return tenant


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("LUTHIER_TEST_BROWSER") == "required":
            pytest.fail("there is no Chromium, and LUTHIER_TEST_BROWSER says that there must be")
        pytest.skip("there is no Chromium: install it, or name one in CHROMIUM")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def viewer(browser: Browser, api: Api, tenant: Tenant) -> AsyncIterator[Viewer]:
    """A browser that has signed in."""
    async with opened(browser, api) as viewer:
        await viewer.sign_in(tenant)
        yield viewer
