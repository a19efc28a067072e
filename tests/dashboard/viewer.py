"""Somebody at a browser, who notices everything that a page must never do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, Request

from tests.api.stack import Api, Tenant

_TELL_OF_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""
_WIDER = """
() => [...document.querySelectorAll("main *:not(select, select *)")].filter((it) => {
  const style = getComputedStyle(it);
  return it.scrollWidth > it.clientWidth + 1 && it.clientWidth > 0 && style.overflowX === "visible" && style.display !== "inline";
}).map((it) => it.outerHTML.slice(0, 120))
"""


@dataclass
class Viewer:
    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    async def sign_in(self, tenant: Tenant) -> None:
        await self.open("sign-in")
        await self.page.get_by_label("API key").fill(tenant.key)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.wait_for_url("**/dashboard/jobs")

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.url}/dashboard/{path}")

    async def violations(self) -> list[str]:
        """What axe finds, and what is wider than the box it is in."""
        found = await Axe().run(self.page)
        told = [
            f"{it['id']}: {node['html'][:160]}"
            for it in found.response["violations"]
            for node in it["nodes"]
        ]
        return [*told, *(f"wider: {it}" for it in await self.page.evaluate(_WIDER))]

    def check(self) -> None:
        """Nothing on the console, nothing refused by the policy, nothing asked of anybody else."""
        assert self.faults == []


@asynccontextmanager
async def viewer(browser: Browser, api: Api, **options: Any) -> AsyncIterator[Viewer]:
    context = await browser.new_context(
        locale="en-GB", timezone_id="Europe/Berlin", reduced_motion="reduce", **options
    )
    context.set_default_timeout(20_000)
    await context.add_init_script(_TELL_OF_VIOLATIONS)
    page = await context.new_page()
    found = Viewer(page, api.url)
    own = urlsplit(api.url).netloc

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            found.faults.append(message.text)

    def on_request(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https") and parts.netloc != own:
            found.faults.append(f"foreign request: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: found.faults.append(str(error)))
    page.on("request", on_request)
    yield found
    await context.close()
