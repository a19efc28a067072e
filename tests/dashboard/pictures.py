"""`python -m tests.dashboard.pictures DIR`: each view with believable data, in light, in dark and on a phone, as PNG files to look at."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from tests import servers
from tests.api.stack import Api, running_api
from tests.dashboard import believable
from tests.dashboard.browser import CHROMIUM, QUIET
from tests.dashboard.viewer import viewer

VIEWS = {
    "jobs": "jobs",
    "job": f"jobs/{believable.DONE}",
    "job-running": f"jobs/{believable.RUNNING}",
    "new-job": "new",
    "playground": "playground",
    "models": "models",
    "files": "files",
    "system": "system",
}
LOOKS = {
    "light": {"viewport": {"width": 1200, "height": 860}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1200, "height": 860}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


async def take(api: Api, directory: Path) -> None:
    tenant = api.tenant()
    believable.fill(api, tenant)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for look, options in LOOKS.items():
            async with viewer(browser, api, **options) as seen:
                await seen.open("sign-in")
                await seen.page.screenshot(path=directory / f"sign-in-{look}.png")
                await seen.sign_in(tenant)
                for name, path in VIEWS.items():
                    await seen.open(path)
                    await seen.page.wait_for_timeout(500)
                    await seen.page.screenshot(path=directory / f"{name}-{look}.png")
                seen.check()
        await browser.close()


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary)
        postgres = Postgres(path / "postgres", fsync=False)
        valkey = Valkey(path / "valkey", fsync=False)
        with (
            postgres.running(path / "postgres.log"),
            valkey.running(path / "valkey.log"),
            servers.fresh_settings(
                postgres, servers.make_template(postgres), valkey, path / "api", train_unserved=True
            ) as settings,
            running_api(settings) as api,
        ):
            asyncio.run(take(api, directory))


if __name__ == "__main__":
    main()
